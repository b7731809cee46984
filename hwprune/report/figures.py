"""The pictures of the pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hwprune.report.drawing import AFTER, BEFORE, BETWEEN, FROZEN, INK, LIMIT, drawing, entitle
from hwprune.report.inspection import readable
from hwprune.report.quantities import quantity, spelled

MOST_BARS = 60  # more lines than this are unreadable; the table below the picture has all of them
MOST_DOTS = 100  # of a line; more of them would hide it
ACTIVE = "#3f7fc0"  # of cells that are more or less filled: seen on white and on black


class Point(NamedTuple):
    """A network, by what it costs and what it scores.

    Attributes:
        kind: networks of one kind look alike.
        name: of this one.
        cost: in the unit of the budget.
        score: by the task's metric.
    """

    kind: str
    name: str
    cost: float
    score: float


@drawing
def widths(groups: Sequence[Mapping[str, Any]]) -> Figure:
    """Channels of every group before and after."""
    shown = groups[:MOST_BARS]
    figure, axes = _bars([str(group["name"]) for group in shown])
    for place, group in enumerate(shown):
        name, kept, frozen = group["name"], group["kept"], group["frozen"]
        said = f"{name}: {kept} of {group['channels']} channels" + (f"; stays whole: {frozen}" if frozen else "")
        _bar(axes, place, group["channels"], FROZEN if frozen else BEFORE, said)
        if not frozen:
            _bar(axes, place, kept, AFTER, said)
    axes.set_xlabel("channels: kept (strong), cut (pale), cannot be cut (grey)")
    return figure


@drawing
def layers(costs: Sequence[Mapping[str, Any]]) -> Figure:
    """Predicted latency of the most expensive layers before and after, in execution order; fused ones are left out."""
    own = [i for i, layer in enumerate(costs) if not str(layer["source"]).startswith("fused")]
    expensive = sorted(own, key=lambda i: -costs[i]["before_ms"])[:MOST_BARS]
    shown = [costs[i] for i in sorted(expensive)]
    figure, axes = _bars([str(layer["name"]) for layer in shown])
    for place, layer in enumerate(shown):
        before, after = (quantity("latency_ms", layer[key]) for key in ("before_ms", "after_ms"))
        said = f"{layer['name']}: {before} before, {after} after ({layer['source']})"
        _bar(axes, place - 0.2, layer["before_ms"], BEFORE, said, height=0.4)
        _bar(axes, place + 0.2, layer["after_ms"], AFTER, said, height=0.4)
    axes.set_xlabel("predicted latency (ms): before (pale), after (strong)")
    return figure


@drawing
def history(epochs: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Loss and metric over the epochs; epochs that pruned are shaded."""
    figure, axes = _lines()
    for place, epoch in enumerate(epochs, 1):
        if epoch["event"] == "prune_epoch":
            axes.axvspan(place - 0.5, place + 0.5, color=BEFORE, alpha=0.4, linewidth=0)
    _curve(axes, list(enumerate((epoch["loss"] for epoch in epochs), 1)), LIMIT, "epoch {x}: loss {y:.4g}")
    axes.set_xlabel("epoch (shaded: pruning)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("training loss", color=LIMIT)
    scored = [(place, epoch["metric"]) for place, epoch in enumerate(epochs, 1) if "metric" in epoch]
    if scored:
        right = axes.twinx()
        right.spines.right.set_visible(True)
        _curve(right, scored, AFTER, "epoch {x}: {y:.4g}")
        right.set_ylabel(metric, color=AFTER)
    return figure


@drawing
def masks(shares: Mapping[str, Sequence[float]], times: Sequence[int], of: str, time: str) -> Figure:
    """What share of every layer or group is active, from one update of the masks to the next.

    Args:
        shares: name → share after every update, 0 to 1.
        times: of the updates.
        of: what there is a share of.
        time: unit of the times.
    """
    names = list(shares)[:MOST_BARS]
    figure, axes = _bars(names)
    colours = LinearSegmentedColormap.from_list("active", [(*to_rgba(ACTIVE)[:3], part) for part in (0.0, 1.0)])
    picture = axes.imshow([shares[name] for name in names], aspect="auto", cmap=colours, vmin=0, vmax=1)
    every = max(1, len(times) // 8)
    axes.set_xticks(range(0, len(times), every), [str(one) for one in times[::every]])
    axes.set_xlabel(f"{time}; colour: part of the {of} that is active")
    figure.colorbar(picture, ax=axes)
    return figure


@drawing
def exchange(updates: Sequence[Mapping[str, Any]]) -> Figure:
    """How much of the masks every update left as it was, and how much of what was grown survived the next one."""
    figure, axes = _lines()
    for key, colour, label in (
        ("iou", AFTER, "overlap of masks (IoU)"),
        ("density", BETWEEN, "density"),
        ("survived", LIMIT, "grown weights that survived"),
    ):
        known = [(update["step"], update[key]) for update in updates if update[key] is not None]
        if known:
            _curve(axes, known, colour, f"step {{x}}: {{y:.2%}} {label}", label=label)
    axes.set_xlabel("step")
    axes.set_ylim(0, 1.05)
    _legend(figure)
    return figure


@drawing
def trials(measured: Sequence[Mapping[str, Any]], limit: float, metric: str) -> Figure:
    """What the closed loop measured, in order, against the budget."""
    figure, axes = _lines()
    places = range(1, len(measured) + 1)
    for key, colour, label in (("measured", AFTER, "measured"), ("predicted", BETWEEN, "predicted by table")):
        points = [(place, trial[key]) for place, trial in zip(places, measured, strict=True)]
        _curve(axes, points, colour, f"trial {{x}}: {{y:.4g}} {label}", label=label)
    axes.axhline(limit, color=LIMIT, linestyle="--", label=f"budget {quantity(metric, limit)}")
    every = max(1, len(measured) // 20)
    axes.set_xticks(places[::every])
    axes.set_xlabel("network measured")
    axes.set_ylabel(spelled(metric))
    axes.set_ylim(bottom=0)
    _legend(figure)
    return figure


@drawing
def tradeoff(points: Sequence[Point], metric: str, name: str, *, frontier: Sequence[str]) -> Figure:
    """What networks score over what they cost.

    Args:
        points: any number of them, finite; of at most four kinds.
        metric: what they cost.
        name: of what they score; more is better.
        frontier: kinds that the frontier is drawn through: those of them that no cheaper one equals.
    """
    figure, axes = _lines()
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.score)):
        if point.kind in frontier and (not best or point.score > best[-1].score):
            best.append(point)
    if len(best) > 1:
        costs, scores = [point.cost for point in best], [point.score for point in best]
        axes.plot(costs, scores, color=BETWEEN, linewidth=1, label="frontier", zorder=1)
    looks = zip((AFTER, LIMIT, INK, BETWEEN), "oDs^", strict=True)
    for place, (kind, (colour, marker)) in enumerate(zip(dict.fromkeys(p.kind for p in points), looks, strict=False)):
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", "zorder": 9 - place}
        for i, point in enumerate(point for point in points if point.kind == kind):
            (dot,) = axes.plot([point.cost], [point.score], label=None if i else kind, **look)
            entitle(dot, f"{point.name}: {quantity(metric, point.cost)}, {name} {quantity(name, point.score)}")
    axes.set_xlabel(spelled(metric))
    axes.set_ylabel(name)
    axes.set_xlim(0, 1.08 * max(point.cost for point in points))
    _legend(figure)
    return figure


@drawing
def hull(costs: Sequence[float], kept: Sequence[float], metric: str) -> Figure:
    """The part of the saliency that the best widths keep, over their predicted cost."""
    figure, axes = _lines()
    said = "{x:.4g}: {y:.1f} % kept"
    _curve(axes, [(cost, 100 * share) for cost, share in zip(costs, kept, strict=True)], AFTER, said)
    axes.set_xlabel(f"predicted {spelled(metric)}")
    axes.set_ylabel("saliency kept (%)")
    return figure


@drawing
def predicted_against_measured(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> Figure:
    """Networks that a latency table had not seen; on the line, the prediction was right."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(*predicted_ms, *measured_ms) * 0.9, max(*predicted_ms, *measured_ms) * 1.05]
    axes.fill_between(ends, [end * 0.95 for end in ends], [end * 1.05 for end in ends], color=BEFORE, alpha=0.5)
    axes.plot(ends, ends, color=LIMIT, linewidth=1)
    pairs = list(zip(measured_ms, predicted_ms, strict=True))
    _curve(axes, pairs, AFTER, "measured {x:.4g} ms, predicted {y:.4g} ms", linestyle="")
    axes.set_xlabel("measured (ms)")
    axes.set_ylabel("predicted (ms); shaded: ±5 %")
    return figure


@drawing
def staircase(counts: Sequence[int], curves: Mapping[str, Sequence[float]], axis: str) -> Figure:
    """Latency of one kind of layer over channel counts, one curve for each count of the other axis."""
    figure, axes = _lines()
    shades = [LIMIT, BETWEEN, AFTER]
    for (label, values), colour in zip(curves.items(), shades[-len(curves) :], strict=False):
        axes.plot(counts, values, color=colour, drawstyle="steps-mid", linewidth=1.4, label=label)
        stairs = [i for i in range(len(values)) if i == 0 or values[i] != values[i - 1]]
        for i in stairs if len(stairs) <= MOST_DOTS else ():
            (dot,) = axes.plot([counts[i]], [values[i]], color=colour, marker="o", markersize=3, linestyle="")
            said = f"{counts[i]} {axis.replace('_', ' ')}: {quantity('latency_ms', values[i])}"
            entitle(dot, f"{said}, {label}" if label else said)
    axes.set_xlabel(axis.replace("_", " "))
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    if len(curves) > 1:
        _legend(figure)
    return figure


@drawing
def staircases(curves: Mapping[str, Mapping[int, float]], chosen: Mapping[str, int], metric: str) -> Figure:
    """What the network would cost over the width of each group, all others as they are, on one scale.

    Args:
        curves: group → width → cost.
        chosen: group → its width.
        metric: what is counted.
    """
    columns = 3
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(8, 0.4 + 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, curve) in zip(grid, curves.items(), strict=False):
        axes.plot(list(curve), list(curve.values()), color=BETWEEN, drawstyle="steps-pre", linewidth=1.4)
        for width, cost in curve.items():
            (dot,) = axes.plot(width, cost, color=LIMIT if width == chosen[name] else BETWEEN, marker="o", markersize=4)
            entitle(dot, f"{name} at {width} channels: {quantity(metric, cost)}")
        axes.set_title(_shortened(name, 30), fontsize=8, color=INK)
        axes.margins(x=0.08)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    figure.supxlabel("channels of the group (red: chosen)", fontsize=9)
    figure.supylabel(f"predicted {spelled(metric)}", fontsize=9)
    return figure


@drawing
def time_shares(names: Sequence[str], latency_ms: Sequence[float]) -> Figure:
    """The part of a network's time that each of its most expensive layers takes, in execution order."""
    total = sum(latency_ms)
    own = sorted(range(len(names)), key=lambda index: -latency_ms[index])[:MOST_BARS]
    shown = sorted(index for index in own if latency_ms[index] > 0)
    figure, axes = _bars([names[index] for index in shown])
    for place, index in enumerate(shown):
        part = 100 * latency_ms[index] / total
        said = f"{names[index]}: {quantity('latency_ms', latency_ms[index])}, {part:.1f} %"
        _bar(axes, place, part, AFTER, said)
    axes.set_xlabel("part of the predicted latency (%)")
    return figure


def _lines() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure) -> None:
    """Above the axes, where it hides nothing."""
    figure.legend(loc="outside upper left", ncols=4)


def _bars(labels: Sequence[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 0.8 + 0.2 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), [_shortened(label, 48) for label in labels])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    return figure, axes


def _bar(axes: Axes, place: float, length: float, colour: str, said: str, *, height: float = 0.8) -> None:
    (patch,) = axes.barh([place], [length], height, color=colour)
    entitle(patch, said)


def _curve(axes: Axes, points: Sequence[tuple[float, float]], colour: str, said: str, **look: Any) -> None:
    """A line through points that say what they are; ``said`` has places for ``x`` and ``y``."""
    known = [(x, y) for x, y in points if math.isfinite(y)]
    axes.plot([x for x, _ in known], [y for _, y in known], color=colour, **look)
    for x, y in known if len(known) <= MOST_DOTS else ():
        (dot,) = axes.plot([x], [y], color=colour, marker="o", markersize=4, linestyle="")
        entitle(dot, said.format(x=x, y=y))


def _shortened(name: str, most: int) -> str:
    """The end of a long name: it differs more than the beginning."""
    readily = readable(name)
    return readily if len(readily) <= most else "…" + readily[1 - most :]
