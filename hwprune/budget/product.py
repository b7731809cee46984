"""How many elements, or bytes, something has: a product of sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .axis import Axis


@dataclass(frozen=True)
class Product:
    """A number times sizes that follow from group widths: ``factor · Π size(axis)``.

    Attributes:
        factor: everything that no width changes.
        axes: the sizes that do change, in order of the dimensions they come from.
    """

    factor: float
    axes: tuple[Axis, ...] = ()

    @classmethod
    def of(cls, dims: Iterable[Axis], factor: float = 1) -> Product:
        """The number of elements of a tensor with these dimensions, times a factor."""
        dims = tuple(dims)
        fixed = math.prod(axis.fixed for axis in dims if not axis.addends)
        return cls(factor * fixed, tuple(axis for axis in dims if axis.addends))

    def times(self, factor: float) -> Product:
        """The same, ``factor`` times as large."""
        return Product(self.factor * factor, self.axes)

    def at(self, widths: Mapping[str, int]) -> float:
        """Its value at these widths (group name → channels kept)."""
        return self.factor * math.prod(axis.size(widths) for axis in self.axes)
