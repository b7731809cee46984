"""From identities to channel groups: which positions go together, and which of those sets are alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hwprune.budget.axis import Axis
from hwprune.network.labels import Block, Ids, Labels
from hwprune.network.network import Block as ResidualBlock
from hwprune.network.network import ChannelGroup, Member

_NO_REASON = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Grouping:
    """Channel groups, and the way from ids back to them.

    Attributes:
        groups: in order of their first producer.
        group_of: id → position in ``groups``; -1 for ids that are in no group.
    """

    groups: tuple[ChannelGroup, ...]
    group_of: NDArray[np.int64]

    def axis(self, ids: Ids) -> Axis:
        """The size of a dimension that carries these ids, as a function of the widths of cuttable groups."""
        return axis_of([(self, ids)])

    def cuttable(self, ids: Ids) -> NDArray[np.int64]:
        """The group of each of these ids, as a position in ``groups``; −1 for those that cannot be cut."""
        found = self.group_of[ids]
        return np.where(self._open[found], found, -1)

    @cached_property
    def _open(self) -> NDArray[np.bool_]:
        return np.array([*(group.frozen is None for group in self.groups), False])

    def without(self, tensors: Set[str]) -> Grouping:
        """The same groups, without what belongs to these tensors or attributes."""
        kept = [tuple(one for one in group.members if one.tensor not in tensors) for group in self.groups]
        return replace(
            self, groups=tuple(replace(group, members=own) for group, own in zip(self.groups, kept, strict=True))
        )

    def only(self, groups: Mapping[str, ChannelGroup]) -> Grouping:
        """Some of the groups, as they are known elsewhere (name → group); the others count as frozen."""
        elsewhere = "known in another reading"
        return replace(
            self, groups=tuple(groups.get(group.name, replace(group, frozen=elsewhere)) for group in self.groups)
        )

    def with_frozen(self, reasons: Mapping[str, str]) -> Grouping:
        """The same groups, some of them frozen as well (name → reason)."""
        return replace(
            self, groups=tuple(replace(group, frozen=reasons.get(group.name, group.frozen)) for group in self.groups)
        )


def axis_of(readings: Sequence[tuple[Grouping, Ids]]) -> Axis:
    """The size of a dimension each position of which is in a group of every reading: where several vary, their product.

    Args:
        readings: groupings, and the ids that each has for the positions of the dimension.
    """
    table = np.stack([grouping.cuttable(ids) for grouping, ids in readings], axis=1)
    found, first, counts = np.unique(table, axis=0, return_index=True, return_counts=True)
    fixed, terms, products = 0, [], []
    for place in np.argsort(first):
        both = [g.groups[index] for (g, _), index in zip(readings, found[place], strict=True) if index >= 0]
        names, count = tuple(group.name for group in both), int(counts[place])
        if not both:
            fixed += count
        elif len(both) == 1:
            terms.append((names[0], count // both[0].channels))
        else:
            products.append((names, count // math.prod(group.channels for group in both)))
    return Axis(fixed, tuple(terms), tuple(products))


def components(size: int, ties: Iterable[tuple[Ids, Ids]]) -> NDArray[np.int64]:
    """The smallest id of each id's class, when pairs of ids are tied.

    Each round hooks every class to the smallest class it touches and then flattens the trees, so the
    number of rounds is logarithmic in practice; each is linear.
    """
    pairs = list(ties)
    root = np.arange(size, dtype=np.int64)
    if not pairs:
        return root
    first = np.concatenate([pair[0] for pair in pairs])
    second = np.concatenate([pair[1] for pair in pairs])
    while True:
        left, right = root[first], root[second]
        apart = left != right
        if not apart.any():
            return root
        first, second, left, right = first[apart], second[apart], left[apart], right[apart]
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while True:
            shorter = root[root]
            if (shorter == root).all():
                break
            root = shorter


def group_channels(labels: Labels, activations: Iterable[Ids]) -> Grouping:
    """Classes of tied positions, gathered into groups of interchangeable channels.

    Two classes belong to one group when they take the same number of positions from every tensor
    dimension and from every activation of ``activations``, and are frozen for the same reason. So every
    size is an affine function of the widths.

    Args:
        labels: everything the rules found out.
        activations: ids of the dimensions whose sizes must follow from the widths.

    Returns:
        The groups; they cover every position of every dimension they touch.
    """
    root = components(labels.size, labels.ties)
    reasons = _reasons(labels, root)
    block_of = _blocks_of_members(labels, root)
    members = np.flatnonzero(block_of >= 0)
    signature = _signatures(labels, root, reasons, block_of, list(activations))[root[members]]
    order = np.lexsort((members, root[members], signature))
    found: list[tuple[int, ChannelGroup, NDArray[np.int64]]] = []
    for start, stop in _runs(signature[order]):
        ids = members[order[start:stop]]
        # Every class takes equally many positions from each dimension, so the columns of the table line up.
        table = ids.reshape(np.unique(root[ids]).size, -1)
        reason = int(reasons[root[ids[0]]])
        frozen = None if reason == _NO_REASON else labels.freezes[reason][1]
        found.append(_group(labels, table, block_of, frozen))
    found.sort(key=lambda entry: entry[0])
    group_of_root = np.full(labels.size, -1, dtype=np.int64)
    for index, (_, _, ids) in enumerate(found):
        group_of_root[root[ids]] = index
    grouping = Grouping(uniquely_named([group for _, group, _ in found]), group_of_root[root])
    return _never_alone(grouping, labels.squeezed)


def _never_alone(grouping: Grouping, squeezed: Iterable[Ids]) -> Grouping:
    """Leave two channels of every group that a dimension consists of which would be squeezed away with one."""
    groups = list(grouping.groups)
    for ids in squeezed:
        found = np.unique(grouping.group_of[ids])
        if len(found) == 1 and found[0] >= 0 and groups[found[0]].channels == ids.size:
            group = groups[found[0]]
            why = "its two channels have to stay, for a single one is squeezed away" if ids.size == 2 else None
            groups[found[0]] = replace(group, least=2, frozen=group.frozen or why)
    return replace(grouping, groups=tuple(groups))


def _reasons(labels: Labels, root: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each class (at its root) the index of the first freeze that hit it."""
    reason = np.full(labels.size, _NO_REASON, dtype=np.int64)
    for index, (ids, _) in enumerate(labels.freezes):
        np.minimum.at(reason, root[ids], index)
    return reason


def _blocks_of_members(labels: Labels, root: NDArray[np.int64]) -> NDArray[np.int64]:
    """The block of each id that takes part (a rule gave its dimension a role, or tied it); -1 for the others."""
    tied = np.bincount(root, minlength=labels.size)[root] > 1
    result = np.full(labels.size, -1, dtype=np.int64)
    for index, block in enumerate(labels.blocks):
        span = slice(block.start, block.start + block.size)
        if block.tensor and (index in labels.roles or tied[span].any()):
            result[span] = index
    return result


def _signatures(
    labels: Labels,
    root: NDArray[np.int64],
    reasons: NDArray[np.int64],
    block_of: NDArray[np.int64],
    activations: list[Ids],
) -> NDArray[np.int64]:
    """A number per class (at its root), equal for classes that are interchangeable."""
    texts = {text: index for index, text in enumerate(dict.fromkeys(text for _, text in labels.freezes))}
    text_of = np.array([*(texts[text] for _, text in labels.freezes), len(texts)], dtype=np.int64)
    result = text_of[np.minimum(reasons, len(text_of) - 1)]
    members = np.flatnonzero(block_of >= 0)
    places = [block_of[members], *(np.full(ids.size, len(labels.blocks) + n) for n, ids in enumerate(activations))]
    classes = [root[members], *(root[ids] for ids in activations)]
    code, counts = np.unique(np.concatenate(places) * labels.size + np.concatenate(classes), return_counts=True)
    # Refine place by place: classes that agreed so far stay together if this place takes equally many of each.
    following = len(text_of)
    for start, stop in _runs(code // max(1, labels.size)):
        touched = code[start:stop] % labels.size
        _, number = np.unique(
            result[touched] * (counts[start:stop].max() + 1) + counts[start:stop], return_inverse=True
        )
        result[touched] = following + number
        following += touched.size
    return result


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Bounds of the runs of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), values.size]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]


def _group(
    labels: Labels, table: NDArray[np.int64], block_of: NDArray[np.int64], frozen: str | None
) -> tuple[int, ChannelGroup, NDArray[np.int64]]:
    """A group from its ids, one row per channel; with the id that gives it its place in the order."""
    columns = block_of[table[0]]
    makes = [column for column, block in enumerate(columns.tolist()) if labels.roles.get(block) == "out"]
    first = makes[0] if makes else 0
    table = table[np.argsort(table[:, first], kind="stable")]
    members = []
    for index in dict.fromkeys(columns.tolist()):
        block = labels.blocks[index]
        role = labels.roles.get(index, "scale")
        members.append(Member(block.tensor, block.dim, role, table[:, columns == index] - block.start))
    if frozen is None and not makes:
        frozen = "no layer with weights makes these channels"
    if frozen is None and len(table) == 1:
        frozen = f"its {max(member.index.size for member in members)} channels can only go together"
    owner = _module(labels.blocks[columns[first]])
    name = owner if makes or labels.roles.get(int(columns[first])) != "in" else f"input of {owner}"
    return int(table[0, first]), ChannelGroup(name, len(table), tuple(members), frozen), table.ravel()


def _module(block: Block) -> str:
    path = block.tensor.partition(".parametrizations.")[0]
    return path.rpartition(".")[0] if path == block.tensor and "." in path else path


Named = TypeVar("Named", ChannelGroup, ResidualBlock)


def uniquely_named(groups: Iterable[Named]) -> tuple[Named, ...]:
    """The same groups or blocks, with a number behind names that are taken."""
    result: dict[str, Named] = {}
    for group in groups:
        names = (group.name if number == 1 else f"{group.name}#{number}" for number in count(1))
        name = next(name for name in names if name not in result)
        result[name] = replace(group, name=name)
    return tuple(result.values())
