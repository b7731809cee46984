"""The pictures of the page, as SVG in data URIs: an image cannot run scripts and needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from hwprune.report.quantities import quantity

BEFORE, AFTER, FROZEN, LIMIT = "#c6d3e3", "#2f5d8c", "#d9d9d9", "#b03a2e"
MOST_BARS = 60  # more lines than this are unreadable; the table below the picture has all of them
_styled = matplotlib.rc_context(
    {
        "axes.spines.top": False,
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "hwprune",  # the same run gives the same page
        "text.parse_math": False,  # a dollar in a layer's name is a dollar
    }
)


@_styled
def widths(groups: Sequence[Mapping[str, Any]]) -> str:
    """Channels of every group before and after."""
    shown = groups[:MOST_BARS]
    figure, axes = _bars([str(group["name"]) for group in shown])
    places = range(len(shown))
    colours = [FROZEN if group["frozen"] else BEFORE for group in shown]
    axes.barh(places, [group["channels"] for group in shown], color=colours)
    axes.barh(places, [0 if group["frozen"] else group["kept"] for group in shown], color=AFTER)
    axes.set_xlabel("channels: kept (dark), cut (light), cannot be cut (grey)")
    return _uri(figure)


@_styled
def layers(costs: Sequence[Mapping[str, Any]]) -> str:
    """Predicted latency of the most expensive layers before and after, in execution order; fused ones are left out."""
    own = [i for i, layer in enumerate(costs) if not str(layer["source"]).startswith("fused")]
    expensive = sorted(own, key=lambda i: -costs[i]["before_ms"])[:MOST_BARS]
    shown = [costs[i] for i in sorted(expensive)]
    figure, axes = _bars([str(layer["name"]) for layer in shown])
    places = range(len(shown))
    axes.barh([place - 0.2 for place in places], [layer["before_ms"] for layer in shown], 0.4, color=BEFORE)
    axes.barh([place + 0.2 for place in places], [layer["after_ms"] for layer in shown], 0.4, color=AFTER)
    axes.set_xlabel("predicted latency (ms): before (light), after (dark)")
    return _uri(figure)


@_styled
def history(epochs: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Loss and metric over the epochs; epochs that pruned are shaded."""
    figure, axes = _lines()
    places = range(1, len(epochs) + 1)
    for place, epoch in zip(places, epochs, strict=True):
        if epoch["event"] == "prune_epoch":
            axes.axvspan(place - 0.5, place + 0.5, color=BEFORE, alpha=0.4, linewidth=0)
    axes.plot(places, [epoch["loss"] for epoch in epochs], color=LIMIT, marker=".")
    axes.set_xlabel("epoch (shaded: pruning)")
    axes.set_ylabel("training loss", color=LIMIT)
    scored = [(place, epoch["metric"]) for place, epoch in zip(places, epochs, strict=True) if "metric" in epoch]
    if scored:
        right = axes.twinx()
        right.plot([place for place, _ in scored], [value for _, value in scored], color=AFTER, marker=".")
        right.set_ylabel(metric, color=AFTER)
    return _uri(figure)


@_styled
def masks(shares: Mapping[str, Sequence[float]], times: Sequence[int], of: str, time: str) -> str:
    """What share of every layer or group is active, from one update of the masks to the next.

    Args:
        shares: name → share after every update, 0 to 1.
        times: of the updates.
        of: what there is a share of.
        time: unit of the times.
    """
    names = list(shares)[:MOST_BARS]
    figure, axes = _bars(names)
    colours = LinearSegmentedColormap.from_list("active", ["#ffffff", AFTER])
    picture = axes.imshow([shares[name] for name in names], aspect="auto", cmap=colours, vmin=0, vmax=1)
    every = max(1, len(times) // 8)
    axes.set_xticks(range(0, len(times), every), [str(one) for one in times[::every]])
    axes.set_xlabel(f"{time}; colour: part of the {of} that is active")
    figure.colorbar(picture, ax=axes)
    return _uri(figure)


@_styled
def exchange(updates: Sequence[Mapping[str, Any]]) -> str:
    """How much of the masks every update left as it was, and how much of what was grown survived the next one."""
    figure, axes = _lines()
    steps = [update["step"] for update in updates]
    axes.plot(steps, [update["iou"] for update in updates], color=AFTER, marker=".", label="overlap of masks (IoU)")
    axes.plot(steps, [update["density"] for update in updates], color=BEFORE, marker=".", label="density")
    survived = [(update["step"], update["survived"]) for update in updates if update["survived"] is not None]
    if survived:
        places, values = zip(*survived, strict=True)
        axes.plot(places, values, color=LIMIT, marker=".", label="grown weights that survived")
    axes.set_xlabel("step")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False)
    return _uri(figure)


@_styled
def trials(measured: Sequence[Mapping[str, Any]], limit: float, metric: str) -> str:
    """What the closed loop measured, in order, against the budget."""
    figure, axes = _lines()
    places = range(1, len(measured) + 1)
    axes.plot(places, [trial["measured"] for trial in measured], color=AFTER, marker="o", label="measured")
    axes.plot(places, [trial["predicted"] for trial in measured], color=BEFORE, marker="o", label="predicted by table")
    axes.axhline(limit, color=LIMIT, linestyle="--", label=f"budget {quantity(metric, limit)}")
    axes.set_xticks(places)
    axes.set_xlabel("network measured")
    axes.set_ylabel(metric)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _uri(figure)


@_styled
def frontier(measured: Sequence[float], scores: Sequence[float], metric: str, name: str, *, baseline: float) -> str:
    """What networks score over what they measure, and what the dense one scores."""
    figure, axes = _lines()
    order = sorted(range(len(measured)), key=lambda index: measured[index])
    axes.plot([measured[i] for i in order], [scores[i] for i in order], color=AFTER, marker="o", label="exported")
    axes.axhline(baseline, color=LIMIT, linestyle="--", label="dense network")
    axes.set_xlabel(f"measured {metric}")
    axes.set_ylabel(name)
    axes.legend(frameon=False)
    return _uri(figure)


@_styled
def hull(costs: Sequence[float], kept: Sequence[float], metric: str) -> str:
    """The part of the saliency that the best widths keep, over their predicted cost."""
    figure, axes = _lines()
    axes.plot(costs, [100 * share for share in kept], color=AFTER, marker=".")
    axes.set_xlabel(f"predicted {metric}")
    axes.set_ylabel("saliency kept (%)")
    return _uri(figure)


@_styled
def predicted_against_measured(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> str:
    """Networks that a latency table had not seen; on the line, the prediction was right."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(*predicted_ms, *measured_ms) * 0.9, max(*predicted_ms, *measured_ms) * 1.05]
    axes.fill_between(ends, [end * 0.95 for end in ends], [end * 1.05 for end in ends], color=BEFORE, alpha=0.5)
    axes.plot(ends, ends, color=LIMIT, linewidth=1)
    axes.plot(measured_ms, predicted_ms, color=AFTER, marker="o", linestyle="", markersize=4)
    axes.set_xlabel("measured (ms)")
    axes.set_ylabel("predicted (ms); shaded: ±5 %")
    return _uri(figure)


@_styled
def staircase(counts: Sequence[int], curves: Mapping[str, Sequence[float]], axis: str) -> str:
    """Latency of one kind of layer over channel counts, one curve for each count of the other axis."""
    figure, axes = _lines()
    shades = [BEFORE, "#7d9cbf", AFTER]
    for (label, values), colour in zip(curves.items(), shades[-len(curves) :], strict=False):
        axes.plot(counts, values, color=colour, drawstyle="steps-mid", linewidth=1.4, label=label)
    axes.set_xlabel(axis.replace("_", " "))
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return _uri(figure)


@_styled
def time_shares(names: Sequence[str], latency_ms: Sequence[float]) -> str:
    """The part of a network's time that each of its most expensive layers takes, in execution order."""
    total = sum(latency_ms)
    own = sorted(range(len(names)), key=lambda index: -latency_ms[index])[:MOST_BARS]
    shown = sorted(index for index in own if latency_ms[index] > 0)
    figure, axes = _bars([names[index] for index in shown])
    axes.barh(range(len(shown)), [100 * latency_ms[index] / total for index in shown], color=AFTER)
    axes.set_xlabel("part of the predicted latency (%)")
    return _uri(figure)


def _lines() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    return figure, figure.add_subplot()


def _bars(labels: Sequence[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 0.8 + 0.2 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    return figure, axes


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
