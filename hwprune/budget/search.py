"""Small steps from one choice of widths to a better one, judged at the true costs of all budgets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .problem import Problem

TINY = 1e-12


def spend(problem: Problem, widths: Mapping[str, int]) -> dict[str, int]:
    """Widen one group after the other, best gain per cost first, while every budget holds.

    Args:
        problem: any.
        widths: inside every budget.
    """
    now = dict(widths)
    while True:
        names, choices, gain = _changes(problem, now, wider=True)
        if not names:
            return now
        price, fits = np.zeros(len(names)), np.ones(len(names), dtype=np.bool_)
        for budget, limit in problem.budgets.items():
            cost = problem.evaluate_each(budget, _candidates(now, names, choices))
            fits &= cost[:-1] <= limit
            price += np.maximum(cost[:-1] - cost[-1], 0.0) / limit
        rate = np.where((gain > 0) & fits, gain / np.maximum(price, TINY), 0.0)
        best = int(rate.argmax())
        if rate[best] <= 0:
            return now
        now[names[best]] = int(choices[best])


def shrink(problem: Problem, widths: Mapping[str, int]) -> dict[str, int] | None:
    """Narrow one group after the other, least loss per saving first, until every budget holds; None if it ends before.

    Args:
        problem: any.
        widths: of every group.
    """
    now = dict(widths)
    while True:
        used = problem.evaluate(now)
        over = {budget: limit for budget, limit in problem.budgets.items() if used[budget] > limit}
        if not over:
            return now
        names, choices, gain = _changes(problem, now, wider=False)
        if not names:
            return None
        saved = np.zeros(len(names))
        for budget, limit in over.items():
            cost = problem.evaluate_each(budget, _candidates(now, names, choices))
            saved += np.maximum(cost[-1] - np.maximum(cost[:-1], limit), 0.0) / limit
        rate = np.where(saved > 0, saved / np.maximum(-gain, TINY), 0.0)
        best = int(rate.argmax())
        if rate[best] <= 0:
            return None
        now[names[best]] = int(choices[best])


def _changes(
    problem: Problem, widths: Mapping[str, int], *, wider: bool
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Every change of one group: its name, the width, what saliency that gains."""
    names, choices, gain = [], [], []
    for name, offered in problem.groups.items():
        if not widths[name]:
            continue  # removed with its block
        now = offered.saliency[offered.widths.index(widths[name])]
        for width, saliency in zip(offered.widths, offered.saliency, strict=True):
            if (width > widths[name]) == wider and width != widths[name]:
                names.append(name)
                choices.append(width)
                gain.append(saliency - now)
    return names, np.array(choices, dtype=np.int64), np.array(gain)


def _candidates(
    widths: Mapping[str, int], names: list[str], choices: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """One candidate per change; the last one changes nothing."""
    found = {name: np.full(len(names) + 1, width, dtype=np.int64) for name, width in widths.items()}
    for place, (name, width) in enumerate(zip(names, choices, strict=True)):
        found[name][place] = width
    return found
