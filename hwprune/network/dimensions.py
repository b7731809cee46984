"""How large every dimension of every value is, as a function of the widths."""

from __future__ import annotations

from collections.abc import Sequence

from hwprune.budget import Axis
from hwprune.network.grouping import Grouping, axis_of
from hwprune.network.labels import Labelled


class Dimensions:
    """Sizes of the values of a recording.

    Args:
        readings: labels of all values, and the groups that these are in; several where groups cross, such as heads and
            the size of a head.
    """

    def __init__(self, readings: Sequence[tuple[Sequence[Labelled], Grouping]]) -> None:
        self._readings = readings
        self.dense = {
            group.name: group.channels for _, grouping in readings for group in grouping.groups if not group.frozen
        }

    def of(self, index: int) -> dict[int, Axis]:
        """Dimension → size, of the labelled dimensions of a value."""
        (first, *_), *_ = self._readings
        found: dict[int, Axis] = {}
        for dim in sorted({dim for labelled, _ in self._readings for dim in labelled[index].dims}):
            ids = [(g, labelled[index].dims[dim]) for labelled, g in self._readings if dim in labelled[index].dims]
            axis = axis_of(ids)
            if axis.addends or dim in first[index].dims:
                found[dim] = axis
        return found

    def all_of(self, index: int) -> tuple[Axis, ...]:
        """The sizes of all dimensions of a value."""
        known = self.of(index)
        return tuple(known.get(dim, Axis(size)) for dim, size in enumerate(self._readings[0][0][index].shape))
