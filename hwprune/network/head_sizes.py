"""The size of attention heads as a width of its own, beside their number.

A view that takes ``heads · size`` channels apart is read in one way by tracing: either part carries the channels. Read
in the other way, the same recording has other groups, which cross the first: cutting a head removes it with all its
positions, cutting a position removes it in all heads. What stays is the product of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace

import numpy as np

from hwprune.network.grouping import components, uniquely_named
from hwprune.network.network import ChannelGroup, Member, Network
from hwprune.network.propagation import Place
from hwprune.network.reading import Reading, fitting
from hwprune.network.trial import Trial


def with_head_sizes(found: Reading, trial: Trial) -> tuple[Network, list[Reading]]:
    """Offer what crosses the groups of a reading where two activations are multiplied.

    Args:
        found: the reading, tried out.
        trial: of its model.

    Returns:
        The network with these groups as well, those that fail frozen, without layers; and all readings that have groups
        in it, this one first.

    Raises:
        ModelError: time is up.
    """
    network, readings = found.network(trial.model), [found]
    splits = _splits(found)
    for other in (_turned(found, splits), found.other) if found.labels.multiplied else ():
        reading = Reading(found.recording, other, paired=True)
        if _new(reading, found, network):
            reading = fitting(reading, trial, ("", "together"))[-1]
        new = [group for group in _new(reading, found, network) if _crosses_all(reading, group, readings)]
        new += _refused(reading, splits, network)
        if new:
            tried = _tried(uniquely_named([*network.groups, *new])[len(network.groups) :], reading, network, trial)
            network = _joined(network, tried, reading)
            named = {group.name: known for group, known in zip(new, tried, strict=True)}
            reading.grouping = reading.grouping.only(named)
            readings.append(reading)
    return network, readings


def _splits(found: Reading) -> set[int]:
    """Calls that split a dimension of what is multiplied."""
    root = components(found.labels.size, found.labels.ties)
    multiplied = np.zeros(found.labels.size, dtype=np.bool_)
    for ids in found.labels.multiplied:
        multiplied[root[ids]] = True
    return {call for call, ids in found.labels.splits.items() if multiplied[root[ids]].any()}


def _turned(found: Reading, splits: Set[int]) -> set[Place]:
    """What is read in another way, where another part of these splits carries the channels."""
    elsewhere = {call for call in splits if call in found.other or ("first", call) in found.other}
    firsts: set[Place] = {("first", call) for call in elsewhere}
    return set(found.other) - elsewhere - firsts | (splits - elsewhere)


def _positions(group: ChannelGroup) -> frozenset[tuple[str, int, bytes, int]]:
    """Equal for the same channels in two readings."""
    return frozenset((m.tensor, m.dim, m.index.tobytes(), len(m.index)) for m in group.tensors)


def _new(reading: Reading, found: Reading, network: Network) -> list[ChannelGroup]:
    """What can be cut in this reading alone, as far as is known."""
    failed = found.failed.values()
    known = {_positions(group) for group in network.groups if group.frozen is None or group.frozen in failed}
    return [group for group in reading.grouping.groups if group.frozen is None and _positions(group) not in known]


def _refused(reading: Reading, splits: Set[int], network: Network) -> list[ChannelGroup]:
    """What carries the channels of these splits, and cannot be cut."""
    grouping, known = reading.grouping, {_positions(group) for group in network.groups}
    ids = [reading.labels.splits[call] for call in splits & reading.labels.splits.keys()]
    touched = np.unique(grouping.group_of[np.concatenate(ids)]).tolist() if ids else []
    groups = [grouping.groups[index] for index in touched if index >= 0]
    return [group for group in groups if group.frozen is not None and _positions(group) not in known]


def _crosses_all(reading: Reading, group: ChannelGroup, others: Iterable[Reading]) -> bool:
    """Whether every channel shares equally many positions with each channel of every group it meets."""
    own = components(reading.labels.size, reading.labels.ties)
    number = [one.name for one in reading.grouping.groups].index(group.name)
    for other in others:
        root, seen = components(other.labels.size, other.labels.ties), set[tuple[bytes, bytes]]()
        for mine, theirs in zip(reading.labelled, other.labelled, strict=True):
            for dim in mine.dims.keys() & theirs.dims.keys():
                ids, met = mine.dims[dim], theirs.dims[dim]
                key = ids.tobytes(), met.tobytes()
                within = reading.grouping.group_of[ids] == number
                if key in seen or not within.any():
                    continue
                seen.add(key)
                groups = other.grouping.cuttable(met)
                for index in np.unique(groups[within & (groups >= 0)]).tolist():
                    shared = within & (groups == index)
                    pairs, counts = np.unique(np.stack([own[ids], root[met]])[:, shared], axis=1, return_counts=True)
                    all_pairs = group.channels * other.grouping.groups[index].channels
                    if pairs.shape[1] != all_pairs or counts.min() != counts.max():
                        return False
    return True


def _tried(groups: Sequence[ChannelGroup], reading: Reading, network: Network, trial: Trial) -> list[ChannelGroup]:
    """The same groups; those that do not survive being cut along with the network's own are frozen.

    Scores that the model divides by the square root of a size stay what they were if the queries are multiplied by what
    is missing, so that is tried where a group fails.
    """
    found, failed = {group.name: group for group in groups}, dict[str, str]()
    waiting = {group.name: [group, *_rescaled(group)] for group in groups if group.frozen is None}
    sound: list[ChannelGroup] = []
    while waiting:
        forms = [choices.pop(0) for choices in waiting.values()]
        why = trial.differences(_joined(network, [*sound, *forms], reading), [*network.cuttable, *sound])
        for group in forms:
            if group.name in why:
                failed.setdefault(group.name, why[group.name])
                continue
            sound.append(group)
            found[group.name] = group
            failed.pop(group.name, None)
            del waiting[group.name]
        waiting = {name: choices for name, choices in waiting.items() if choices}
    return [replace(group, frozen=failed.get(name, group.frozen)) for name, group in found.items()]


def _rescaled(group: ChannelGroup) -> Iterator[ChannelGroup]:
    """The group with what may make the queries: a layer, or of one that makes keys and values too, the first third."""
    makers: dict[str, list[Member]] = {}
    for member in group.members:
        if member.role in ("out", "norm"):
            owner = re.sub(r"\d+", "#", member.tensor.rpartition(".")[0])  # counterparts in repeated blocks together
            makers.setdefault(owner, []).append(member)
    for parts in (1, 3):
        for members in makers.values():
            sizes = [member.index.shape[1] for member in members]
            if parts == 1:
                yield replace(group, rescaled=tuple(members))
            elif all(size % parts == 0 for size in sizes):
                # Queries, keys and values lie one behind the other, or do so in every head.
                firsts = [slice(size // parts) for size in sizes], [slice(None, None, parts)] * len(sizes)
                for places in firsts if max(sizes) > parts else firsts[:1]:
                    rows = [m.index[:, place] for m, place in zip(members, places, strict=True)]
                    queries = [replace(m, index=index) for m, index in zip(members, rows, strict=True)]
                    yield replace(group, rescaled=tuple(queries))


def _joined(network: Network, groups: Iterable[ChannelGroup], reading: Reading) -> Network:
    """The network with further groups; frozen ones that these cover are left out, for their channels can be cut."""
    groups = list(groups)
    covered: dict[tuple[str, int], set[int]] = {}
    for member in (member for group in groups if group.frozen is None for member in group.members):
        covered.setdefault((member.tensor, member.dim), set()).update(member.index.ravel().tolist())
    kept = [
        group
        for group in network.groups
        if group.frozen is None
        or any(not covered.get((m.tensor, m.dim), set()).issuperset(m.index.ravel().tolist()) for m in group.members)
    ]
    return replace(
        network,
        groups=(*kept, *groups),
        norms=tuple(dict.fromkeys((*network.norms, *reading.labels.norms))),
        written_norms={**network.written_norms, **reading.written},
    )
