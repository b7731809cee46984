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
        self._sizes: dict[tuple[tuple[int, bytes], ...], Axis] = {}  # most dimensions are equal to some other one

    def of(self, index: int) -> dict[int, Axis]:
        """Dimension → size, of the labelled dimensions of a value."""
        (first, *_), *_ = self._readings
        found: dict[int, Axis] = {}
        for dim in sorted({dim for labelled, _ in self._readings for dim in labelled[index].dims}):
            places = [(n, one[index].dims[dim]) for n, (one, _) in enumerate(self._readings) if dim in one[index].dims]
            key = tuple((number, ids.tobytes()) for number, ids in places)
            if key not in self._sizes:
                self._sizes[key] = axis_of([(self._readings[number][1], ids) for number, ids in places])
            axis = self._sizes[key]
            if axis.addends or dim in first[index].dims:
                found[dim] = axis
        return found

    def all_of(self, index: int) -> tuple[Axis, ...]:
        """The sizes of all dimensions of a value."""
        known = self.of(index)
        return tuple(known.get(dim, Axis(size)) for dim, size in enumerate(self._readings[0][0][index].shape))
