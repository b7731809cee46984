"""One entry of a latency table: measured latencies of one kind of layer over a grid of channel counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprune.latency.key import Key

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """How well networks were predicted that the table had not seen by then.

    Attributes:
        predicted_ms: end-to-end latency of each, from what was known before.
        measured_ms: what it then measured, brought to the speed of the device that the table stands for.
    """

    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]

    @property
    def errors(self) -> Floats:
        """Relative errors, absolute values, one per network."""
        return np.asarray(np.abs(np.array(self.predicted_ms) / np.array(self.measured_ms) - 1))

    @property
    def p90(self) -> float:
        """Nine in ten networks were predicted to within this part of their latency."""
        return float(np.quantile(self.errors, 0.9))

    def __str__(self) -> str:
        """For people: ``16 unseen networks: error 1.1 % median, 3.0 % at the 90th percentile, 4.2 % at worst``."""
        median, p90, worst = (100 * np.quantile(self.errors, (0.5, 0.9, 1.0))).tolist()
        errors = f"{median:.1f} % median, {p90:.1f} % at the 90th percentile, {worst:.1f} % at worst"
        return f"{len(self.measured_ms)} unseen networks: error {errors}"


@dataclass(frozen=True, eq=False)
class Entry:
    """Measured latencies of one kind of layer.

    Attributes:
        key: which layers it is about.
        sizes: the channel counts measured, ascending, one tuple per axis of the key.
        latency_ms: median time of one call, shape ``tuple(len(s) for s in sizes)``, all above 0.
        iqr_ms: spread between the quartiles, same shape.
        repeats: undisturbed samples behind each median (for a layer measured in networks: how many of these each value
            rests on), same shape.
        how: ``alone``, each value a measurement of the layer by itself, or ``in context``, values fitted to what the
            layer took inside whole networks.
    """

    key: Key
    sizes: tuple[tuple[int, ...], ...]
    latency_ms: Floats
    iqr_ms: Floats
    repeats: NDArray[np.int64]
    how: str = "alone"

    def at(self, sizes: tuple[NDArray[np.int64], ...], step: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Latency over the product of channel counts.

        A count that was not measured is rounded up to the next multiple of ``step`` (a channel block costs the same
        when part of it is empty), but not beyond the largest measured; between measured counts the latency is
        interpolated linearly along each axis. A count below ``step`` but within the grid is not rounded: layers that
        start so small are listed by their own counts.

        Args:
            sizes: one array of counts per axis, each at least 1.
            step: the table's channel step.

        Returns:
            latencies in ms, and which of them are interpolated; both of shape ``tuple(len(s) for s in sizes)``.

        Raises:
            IndexError: a count is outside what was measured; ``args`` holds the axis and the count.
        """
        values, between = self.latency_ms, np.zeros((), dtype=bool)
        for axis, wanted in enumerate(sizes):
            grid = np.asarray(self.sizes[axis])
            measured = np.isin(wanted, grid)
            exact = measured | ((wanted < step) & (wanted >= grid[0]))
            rounded = np.where(exact, wanted, np.minimum(-(-wanted // step) * step, grid[-1]))
            outside = (wanted > grid[-1]) | (rounded < grid[0])
            if outside.any():
                raise IndexError(axis, int(wanted[outside][0]))
            high = np.searchsorted(grid, rounded)
            low = np.maximum(high - 1, 0)
            share = np.where(high == low, 1.0, (rounded - grid[low]) / np.maximum(grid[high] - grid[low], 1))
            share = share.reshape(-1, *[1] * (values.ndim - axis - 1))
            values = values.take(low, axis=axis) * (1 - share) + values.take(high, axis=axis) * share
            between = np.logical_or.outer(between, ~measured)
        return values, between

    def to_dict(self) -> dict[str, Any]:
        """The form on disk; latencies to six significant digits."""
        axes = [{"name": name, "sizes": list(sizes)} for name, sizes in zip(self.key.axes, self.sizes, strict=True)]
        return {
            "op": self.key.op,
            "fused": list(self.key.fused),
            "attributes": self.key.attributes,
            "inputs": [list(shape) for shape in self.key.inputs],
            "axes": axes,
            "latency_ms": _rounded(self.latency_ms.tolist()),
            "iqr_ms": _rounded(self.iqr_ms.tolist()),
            "repeats": self.repeats.tolist(),
            "how": self.how,
        }


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.6g}")
