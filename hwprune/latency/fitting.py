"""A function of channel counts from scattered measurements: values at knots, interpolated linearly along each axis.

With one knot at either end of each axis it is the bilinear function that a dense convolution's arithmetic suggests;
more knots follow what real kernels do. How far the values may bend is decided by held-out error.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
KNOTS = {1: 16, 2: 6}  # at most, per axis, by how many axes there are that change
FOLDS = 5
STIFFNESS = (1e6, 1e0, 1e-1, 1e-2, 1e-3)  # weight of the bending, from none allowed to almost free
BETTER = 0.95  # a softer fit must lower the held-out error to less than this part of a stiffer one's
TRACE = 1e-3  # weight of what is assumed where nothing was measured, next to that of one measurement
LEAST_MS = 1e-4


@dataclass(frozen=True)
class Fit:
    """A fitted function of channel counts.

    Attributes:
        knots: ascending channel counts, one tuple per axis.
        values: milliseconds at the knots, shape ``tuple(len(k) for k in knots)``, all above 0.
        spread: interquartile range of measured over fitted, around 1.
        support: measurements that each knot's value rests on, same shape as ``values``.
    """

    knots: tuple[tuple[int, ...], ...]
    values: Floats
    spread: float
    support: Integers


def fit(sizes: Integers, latency_ms: Floats, source: Integers, ends: Sequence[tuple[int, int]]) -> Fit:
    """Fit measurements of one kind of layer.

    Minimises Σ w·(f(sizes) − latency)² + stiffness · bending², robustly: measurements that lie far off count less. The
    bending is that of second differences along each axis, zero for a bilinear function. Of several stiffnesses the one
    with the least error on held-out sources is taken, and a stiffer one if it is nearly as good.

    Args:
        sizes: channel counts, shape (measurements, axes).
        latency_ms: what was measured, shape (measurements,).
        source: number of the network that each comes from; held out together. Shape (measurements,).
        ends: least and greatest count of each axis that the fit must cover.
    """
    if not ends:
        middle = max(LEAST_MS, float(np.median(latency_ms)))
        return Fit((), np.array(middle), _spread(latency_ms, np.array([middle])), np.array(len(latency_ms)))
    most = KNOTS[max(1, sum(low < high for low, high in ends))]
    knots = tuple(_knots(sizes[:, axis], *end, most) for axis, end in enumerate(ends))
    basis, bending = _basis(sizes, knots), _bending(knots)
    weights = 1 / np.sqrt(np.maximum(latency_ms, LEAST_MS) * max(float(np.mean(latency_ms)), LEAST_MS))
    points = np.array(list(itertools.product(*knots)), dtype=np.float64)
    shares = np.prod(points / points.max(axis=0), axis=1)
    problem = _Problem(basis, latency_ms, weights, bending, shares)
    values = problem.solved(problem.stiffness(source))
    shape = tuple(len(axis) for axis in knots)
    support = np.maximum(1, np.count_nonzero(basis > 0, axis=0)).reshape(shape)
    return Fit(knots, values.reshape(shape), _spread(latency_ms, basis @ values), support)


def _spread(measured: Floats, fitted: Floats) -> float:
    low, high = np.percentile(measured / np.maximum(fitted, LEAST_MS), (25, 75))
    return float(high - low)


def _knots(sizes: Integers, low: int, high: int, most: int) -> tuple[int, ...]:
    """The ends, and between them counts that were measured, evenly spread."""
    inside = np.unique(sizes[(sizes > low) & (sizes < high)])
    count = min(most - 2, len(inside))
    places = np.linspace(low, high, count + 2)[1:-1]
    chosen = {int(inside[np.argmin(np.abs(inside - place))]) for place in places} if count else set()
    return tuple(sorted({low, high, *chosen}))


def _basis(sizes: Integers, knots: Sequence[Sequence[int]]) -> Floats:
    """Shares of the knots in each measurement, shape (measurements, knots)."""
    result: Floats = np.ones((len(sizes), 1))
    for axis, grid in enumerate(knots):
        one_axis = np.stack([np.interp(sizes[:, axis], grid, unit) for unit in np.eye(len(grid))], axis=1)
        result = (result[:, :, None] * one_axis[:, None, :]).reshape(len(sizes), -1)
    return result


def _bending(knots: Sequence[Sequence[int]]) -> Floats:
    """Second differences along every axis, as rows over the flattened knots."""
    shape = [len(grid) for grid in knots]
    rows: list[Floats] = [np.zeros((0, int(np.prod(shape))))]
    for axis, grid in enumerate(knots):
        if len(grid) < 3:
            continue
        scaled = (np.array(grid) - grid[0]) / (grid[-1] - grid[0])
        curve = np.zeros((len(grid) - 2, len(grid)))
        for row, (left, mid, right) in enumerate(zip(scaled, scaled[1:], scaled[2:], strict=False)):
            share = (mid - left) / (right - left)
            curve[row, row : row + 3] = (1 - share, -1.0, share)
        factors = [np.eye(size) for size in shape]
        factors[axis] = curve
        product: Floats = np.ones((1, 1))
        for factor in factors:
            product = np.asarray(np.kron(product, factor))
        rows.append(product)
    return np.concatenate(rows)


@dataclass(frozen=True)
class _Problem:
    """Regularised least squares over the values at knots, none of them below ``LEAST_MS``.

    Attributes:
        basis: shares of the knots in each measurement, shape (measurements, knots).
        target: what was measured.
        weights: of the measurements.
        bending: rows that should be zero.
        shares: what a cost in proportion to the channels would be at each knot, as a part of the last one's.
    """

    basis: Floats
    target: Floats
    weights: Floats
    bending: Floats
    shares: Floats

    def solved(self, stiffness: float) -> Floats:
        """Values at the knots; iterated with Huber weights."""
        level = max(float(np.median(self.target)), LEAST_MS)
        # A trace of a cost in proportion to the channels, for knots that nothing was measured near.
        usual = self.shares * float(np.median(self.target / np.maximum(self.basis @ self.shares, 1e-12)))
        stiff = np.sqrt(stiffness * len(self.target)) / level * self.bending
        below = np.concatenate([stiff, TRACE / level * np.eye(len(usual))])
        right_below = np.concatenate([np.zeros(len(stiff)), TRACE / level * usual])
        robust, values = np.ones(len(self.target)), np.zeros(len(usual))
        for _ in range(4):
            heavy = self.weights * robust
            left = np.concatenate([heavy[:, None] * self.basis, below])
            right = np.concatenate([heavy * self.target, right_below])
            together = np.column_stack([left, right - LEAST_MS * left.sum(axis=1)])
            small: Floats = np.asarray(np.linalg.qr(together, mode="r"))
            values = LEAST_MS + nnls(small[:, :-1], small[:, -1], maxiter=100 * len(usual))[0]
            residual = self.residual(values)
            middle = np.partition(residual, len(residual) // 2)[len(residual) // 2]
            limit = 2.0 * max(float(middle), 1e-12)
            robust = np.sqrt(np.minimum(1.0, limit / np.maximum(residual, 1e-12)))
        return values

    def residual(self, values: Floats) -> Floats:
        """How far each measurement is off, weighted."""
        return np.asarray(np.abs(self.weights * (self.basis @ values - self.target)))

    def part(self, chosen: NDArray[np.bool_]) -> _Problem:
        """The same with these measurements only."""
        rows = (self.basis[chosen], self.target[chosen], self.weights[chosen])
        return _Problem(*rows, self.bending, self.shares)

    def stiffness(self, source: Integers) -> float:
        """The weight of the bending that predicts held-out sources best; a stiffer one if it is nearly as good."""
        if not len(self.bending) or len(np.unique(source)) < 2 * FOLDS:
            return STIFFNESS[0]
        fold = source % FOLDS
        best, least = STIFFNESS[0], np.inf
        for stiffness in STIFFNESS:
            error = 0.0
            for held in range(FOLDS):
                used, left = fold != held, fold == held
                if used.any() and left.any():
                    error += float(self.part(left).residual(self.part(used).solved(stiffness)).sum())
            if error < BETTER * least:
                best, least = stiffness, error
        return best
