"""The pictures of the page, as SVG in data URIs: an image cannot run scripts and needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
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
