"""What networks score against what they cost, and what each group's width costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from hwprune.budget import Metric, Problem
from hwprune.errors import InputError
from hwprune.report import figures
from hwprune.report.content import Picture
from hwprune.report.figures import Point
from hwprune.report.quantities import spelled

DENSE, PRUNED = "dense network", "while pruning, cost predicted"
MOST_STAIRCASES = 24  # groups whose width matters most
_COSTS = {  # of a network before and after
    "latency_ms": ("baseline_latency_ms", "measured_latency_ms"),
    "size_bytes": ("baseline_size_bytes", "size_bytes"),
    "memory_bytes": ("baseline_memory_bytes", "measured_memory_bytes"),
    "macs": ("baseline_macs", "macs"),
}


def run_points(result: Mapping[str, Any], kind: str) -> list[Point]:
    """The dense network and the delivered one, as far as both their numbers are known."""
    before, after = _COSTS[_metric(result)]
    requested = result["budget_requested"]
    points = [
        Point(DENSE, DENSE, result[before], result["baseline_accuracy"]),
        Point(kind, f"budget {requested}" if requested else kind, result[after], result["accuracy"]),
    ]
    return [point for point in points if _finite(point.cost) and _finite(point.score)]


def pruned_points(
    result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], problem: Problem | None
) -> list[Point]:
    """The network after every epoch that pruned it, at the cost that the last problem predicts."""
    points = []
    for event in history:
        if event["event"] == "prune_epoch" and _finite(event.get("metric")) and problem is not None:
            try:
                cost = problem.evaluate(event["widths"]).get(_metric(result))
            except (InputError, KeyError):
                continue  # wider than what was on offer in the last step
            if cost:
                points.append(Point(PRUNED, f"after epoch {event['epoch']}", cost, event["metric"]))
    return points


def tradeoff_picture(points: Sequence[Point], result: Mapping[str, Any]) -> Picture:
    """All points, and the frontier of those that were delivered."""
    frontier = {point.kind for point in points} - {PRUNED}
    draw = partial(figures.tradeoff, points, _metric(result), str(result["metric"]), frontier=tuple(frontier))
    return Picture(draw, f"{result['metric']} over {spelled(_metric(result))}")


def staircase_curves(
    problem: Problem | None, chosen: Mapping[str, int], metric: Metric | None
) -> dict[str, dict[int, float]]:
    """The network's predicted latency over each width on offer for one group, all others as chosen.

    Args:
        problem: the last one that was solved; None gives no curve.
        chosen: group → width, of all groups.
        metric: of the budget; there are curves for latency alone, for nothing else has stairs.
    """
    if problem is None or metric != "latency_ms":
        return {}
    curves = {}
    for name, choices in problem.groups.items():
        widths = np.array(choices.widths)
        try:
            columns = {other: np.full(len(widths), chosen[other]) for other in problem.groups}
            costs = problem.evaluate_each(metric, {**columns, name: widths})
        except (InputError, KeyError):
            continue  # the run ended with widths that this problem does not have
        if len(widths) > 1:
            curves[name] = dict(zip(choices.widths, costs.tolist(), strict=True))
    ranked = sorted(curves, key=lambda name: min(curves[name].values()) - max(curves[name].values()))
    shown = set(ranked[:MOST_STAIRCASES])
    return {name: curve for name, curve in curves.items() if name in shown}


def _metric(result: Mapping[str, Any]) -> Metric:
    metric: Metric = result["budget_metric"] or "latency_ms"
    return metric


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
