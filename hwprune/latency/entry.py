"""One entry of a latency table: measured latencies of one kind of layer over a grid of channel counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprune.latency.key import Key

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Entry:
    """Measured latencies of one kind of layer.

    Attributes:
        key: which layers it is about.
        sizes: the channel counts measured, ascending, one tuple per axis of the key.
        latency_ms: median time of one call, shape ``tuple(len(s) for s in sizes)``, all above 0.
        iqr_ms: spread between the quartiles, same shape.
        repeats: undisturbed samples behind each median, same shape.
    """

    key: Key
    sizes: tuple[tuple[int, ...], ...]
    latency_ms: Floats
    iqr_ms: Floats
    repeats: NDArray[np.int64]

    def at(self, sizes: tuple[NDArray[np.int64], ...], step: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Latency over the product of channel counts.

        A count that was not measured is rounded up to the next multiple of ``step`` (a channel block costs the same
        when part of it is empty), but not beyond the largest measured; between measured counts the latency is
        interpolated linearly along each axis.

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
            rounded = np.where(measured, wanted, np.minimum(-(-wanted // step) * step, grid[-1]))
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
            "attributes": self.key.attributes,
            "inputs": [list(shape) for shape in self.key.inputs],
            "axes": axes,
            "latency_ms": _rounded(self.latency_ms.tolist()),
            "iqr_ms": _rounded(self.iqr_ms.tolist()),
            "repeats": self.repeats.tolist(),
        }


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.6g}")
