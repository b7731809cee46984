"""The multiple-choice knapsack, exactly: one choice per class, the greatest value within a capacity.

Dynamic programming over integer costs: ``best_k[w] = max_j best_{k−1}[w − c_kj] + v_kj`` where ``best_k[w]`` is the
greatest value the first k classes can have at a total cost of at most w. One run answers every capacity up to its
own (:func:`frontier`). Time classes × choices × capacity, memory classes × capacity bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 16384  # bins worked on at a time: the three arrays of a block stay in the CPU's cache


def solve_mckp(values: Sequence[ArrayLike], costs: Sequence[ArrayLike], capacity: int) -> list[int] | None:
    """The best choice of every class.

    Args:
        values: per class, the value of each choice, shape (choices,).
        costs: per class, the integer cost of each choice, shape (choices,); negative costs are allowed.
        capacity: the greatest total cost.

    Returns:
        One index per class; None if even the cheapest choices exceed the capacity.

    Raises:
        ValueError: values and costs that do not fit each other, or costs that are not integers.
    """
    rows = frontier(values, costs, capacity)
    return rows[-1].tolist() if len(rows) else None


def frontier(values: Sequence[ArrayLike], costs: Sequence[ArrayLike], capacity: int) -> NDArray[np.int64]:
    """The best choices at every capacity up to ``capacity``.

    Args:
        values: as for :func:`solve_mckp`.
        costs: as for :func:`solve_mckp`.
        capacity: the greatest total cost.

    Returns:
        Shape (solutions, classes), by rising value and rising capacity; one row for every capacity at which
        the optimum improves, none if nothing fits.

    Raises:
        ValueError: as for :func:`solve_mckp`.
    """
    worth, weights, least = _checked(values, costs)
    # Costs count from the cheapest choice of their class, so that they are not negative.
    room = min(capacity - least, sum(int(w.max()) for w in weights))
    if room < 0:
        return np.empty((0, len(worth)), dtype=np.int64)
    best = np.zeros(room + 1)
    picks = []
    for value, weight in zip(worth, weights, strict=True):
        best, pick = _add_class(best, value, weight)
        picks.append(pick)
    at = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
    rows = np.empty((at.size, len(worth)), dtype=np.int64)
    for k in range(len(worth) - 1, -1, -1):
        rows[:, k] = picks[k][at]
        at = at - weights[k][rows[:, k]]
    return rows


def _checked(
    values: Sequence[ArrayLike], costs: Sequence[ArrayLike]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]], int]:
    worth = [np.asarray(value, dtype=np.float64) for value in values]
    exact = [np.asarray(cost) for cost in costs]
    if [v.shape for v in worth] != [c.shape for c in exact] or any(v.ndim != 1 or not v.size for v in worth):
        raise ValueError("every class needs as many costs as values, and at least one")
    if not all(np.issubdtype(cost.dtype, np.integer) for cost in exact):
        raise ValueError("costs must be integers")
    least = sum(int(cost.min()) for cost in exact)
    return worth, [cost.astype(np.int64) - int(cost.min()) for cost in exact], least


def _add_class(
    best: NDArray[np.float64], value: NDArray[np.float64], weight: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """One step of the recurrence: the new best values, and the choice behind each."""
    order = _undominated(value, weight)
    result = np.empty_like(best)
    pick = np.empty(best.size, dtype=np.uint8 if value.size <= 256 else np.int64)
    for low in range(0, best.size, BLOCK):
        high = min(low + BLOCK, best.size)
        block, chosen = result[low:high], pick[low:high]
        first = order[0]  # costs nothing, so it fits everywhere
        np.add(best[low:high], value[first], out=block)
        chosen.fill(first)
        for j in order[1:]:
            cost = int(weight[j])
            if cost >= high:
                break
            start = max(low, cost)
            candidate = best[start - cost : high - cost] + value[j]
            better = candidate > block[start - low :]
            np.copyto(block[start - low :], candidate, where=better)
            np.copyto(chosen[start - low :], j, where=better, casting="unsafe")
    return result, pick


def _undominated(value: NDArray[np.float64], weight: NDArray[np.int64]) -> list[int]:
    """Choices by rising cost, without those that cost as much as another that is worth at least as much."""
    order = np.lexsort((np.arange(value.size), -value, weight))
    kept: list[int] = []
    for j in order.tolist():
        if not kept or value[j] > value[kept[-1]]:
            kept.append(j)
    return kept
