"""Channels grown back into a budget by the solver, the active ones held."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hwprune.budget import kept_channels
from hwprune.pruning import Pricing
from hwprune.pruning.pruner import Solve

Kept = dict[str, list[int]]
Scores = Mapping[str, NDArray[np.float64]]


def every_channel(pricing: Pricing) -> Kept:
    """Group → all of its channels."""
    return {group: list(range(count)) for group, count in pricing.dense.items()}


def least_costs(pricing: Pricing, limit: float) -> dict[str, float]:
    """Metric → the least that any widths cost."""
    nothing = {group: np.zeros(count) for group, count in pricing.dense.items()}
    return pricing.problem(nothing, every_channel(pricing), limit).least()


def grown(pricing: Pricing, solver: Solve, scores: Scores, limits: Mapping[str, float], active: Kept) -> Kept:
    """What is active afterwards: that which was, and the most salient of the rest, as the budgets allow.

    Args:
        pricing: what every width costs.
        solver: what chooses the widths.
        scores: group → saliency of every channel, shape (channels,).
        limits: metric → budget.
        active: group → channels that stay; none of a group whose block is removed.
    """
    caps = {metric: limit for metric, limit in limits.items() if metric != pricing.metric}
    everything = every_channel(pricing)
    plan = solver(pricing.problem(scores, everything, limits[pricing.metric], caps=caps, held=active))
    kept: Kept = {}
    for group, width in plan.widths.items():
        held = set(active[group])
        others = [channel for channel in everything[group] if channel not in held]
        best = kept_channels(scores[group][others], width - len(held)) if width else []
        kept[group] = sorted([*held, *(others[index] for index in best)])
    return kept
