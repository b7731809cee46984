"""How the size of one dimension follows from the widths of channel groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Addend = tuple[tuple[str, ...], int]


@dataclass(frozen=True)
class Axis:
    """The size of a dimension as a polynomial of group widths.

    ``size = fixed + Σ multiplier · width(group) + Σ multiplier · Π width(group)``. A plain convolution's output has one
    term with multiplier 1; the input of a layer behind a concatenation has one term per concatenated group; a linear
    layer behind ``flatten`` has multiplier ``height·width``; where heads and the size of a head are cut, queries are as
    wide as the product of the two.

    Attributes:
        fixed: channels that are never cut (the network's input, frozen groups).
        terms: ``(group name, multiplier)``, each group at most once, in order of first position.
        products: ``(group names, multiplier)`` of positions that several groups share, each set of groups at most once.
    """

    fixed: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    products: tuple[Addend, ...] = ()

    def size(self, widths: Mapping[str, int]) -> int:
        """Size of the dimension, in channels, at these widths (group name → channels kept)."""
        return self.fixed + sum(times * math.prod(widths[name] for name in names) for names, times in self.addends)

    @property
    def addends(self) -> tuple[Addend, ...]:
        """Everything that varies: the groups whose widths are multiplied, and what with."""
        return (*(((group,), multiplier) for group, multiplier in self.terms), *self.products)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups this dimension depends on."""
        return tuple(dict.fromkeys(name for names, _ in self.addends for name in names))

    def times(self, other: Axis) -> Axis:
        """The product of two sizes that have no group in common."""
        everything = itertools.product((((), self.fixed), *self.addends), (((), other.fixed), *other.addends))
        return _collected(((*first, *second), one * two) for (first, one), (second, two) in everything)

    def settled(self, widths: Mapping[str, int]) -> Axis:
        """The same size where some groups have a known width (group name → channels)."""
        found: list[Addend] = [((), self.fixed)]
        for names, multiplier in self.addends:
            times = multiplier * math.prod(widths[name] for name in names if name in widths)
            found.append((tuple(name for name in names if name not in widths), times))
        return _collected(found)


def _collected(addends: Iterable[Addend]) -> Axis:
    found: dict[tuple[str, ...], int] = {}
    for names, multiplier in addends:
        if multiplier:
            found[names] = found.get(names, 0) + multiplier
    fixed = found.pop((), 0)
    terms = tuple((names[0], times) for names, times in found.items() if len(names) == 1)
    return Axis(fixed, terms, tuple((names, times) for names, times in found.items() if len(names) > 1))
