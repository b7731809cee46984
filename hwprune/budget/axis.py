"""How the size of one dimension follows from the widths of channel groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """The size of a dimension as an affine function of group widths.

    ``size = fixed + Σ multiplier · width(group)``. A plain convolution's output has one term with
    multiplier 1; the input of a layer behind a concatenation has one term per concatenated group;
    a linear layer behind ``flatten`` has multiplier ``height·width``.

    Attributes:
        fixed: channels that are never cut (the network's input, frozen groups).
        terms: ``(group name, multiplier)``, each group at most once, in order of first position.
    """

    fixed: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def size(self, widths: Mapping[str, int]) -> int:
        """Size of the dimension, in channels, at these widths (group name → channels kept)."""
        return self.fixed + sum(multiplier * widths[group] for group, multiplier in self.terms)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups this dimension depends on."""
        return tuple(group for group, _ in self.terms)
