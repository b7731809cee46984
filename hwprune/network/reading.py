"""A recording read in one way: labels, groups, and what tracing does where code can mean several things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

import numpy as np
from torch import nn

from hwprune.network.grouping import group_channels
from hwprune.network.labels import Ids, Labels
from hwprune.network.layers import activations_of
from hwprune.network.network import ChannelGroup, Network
from hwprune.network.propagation import Place, follow_norms, follow_sizes, follow_widths, propagate
from hwprune.network.recorded import Recording, unread
from hwprune.network.trial import Trial


class Reading:
    """A recording with labels and groups.

    Args:
        recording: of one forward pass.
        other: what is read in another way.
        paired: the sizes of heads can be cut, queries and keys together.
    """

    def __init__(self, recording: Recording, other: Set[Place] = frozenset(), *, paired: bool = False) -> None:
        self.recording, self.labels, self.other = recording, Labels(paired=paired), other
        self.labelled = propagate(recording, self.labels, other)
        self.calls = recording.calls
        if recording.branches is not None:
            propagate(recording.branches, self.labels, other, first=len(self.calls))
            self.calls = [*self.calls, *recording.branches.calls]
        self.written = follow_norms(recording, self.labels, self.labelled)
        self.wide = follow_widths(recording, self.labels, self.labelled, other)
        follow_sizes(recording, self.labels, self.labelled, other)
        _list_unused(recording, self.labels)
        self.grouping = group_channels(self.labels, activations_of(recording, self.labelled))
        self.failed: dict[tuple[object, ...], str] = {}

    def again(self, other: Set[Place]) -> Reading:
        """The same recording, read with this in another way."""
        return Reading(self.recording, other, paired=self.labels.paired)

    def freeze(self, found: Mapping[str, str]) -> None:
        """Freeze groups (name → reason), and remember which channels these were."""
        self.failed |= {_members(group): found[group.name] for group in self.grouping.groups if group.name in found}
        self.grouping = self.grouping.with_frozen(found)

    def fitted(self, trial: Trial, before: Reading | None = None) -> Reading:
        """Itself, with the groups frozen whose shapes do not fit when cut, or that failed in a reading before."""
        failed = before.failed if before is not None else {}
        known = {group.name: failed[_members(group)] for group in self.grouping.groups if _members(group) in failed}
        self.freeze(known)
        self.freeze(trial.misfits(self.useful(trial).network(trial.model)))
        return self

    def useful(self, trial: Trial) -> Reading:
        """Itself, without the attributes that nothing depends on."""
        self.grouping = self.grouping.without(trial.needless(self.network(trial.model)))
        return self

    def is_clear(self) -> bool:
        """Whether there is nothing that could be read in another way and more would be cuttable."""
        _, stuck = self.cuttable()
        return not stuck and not self.wide

    def network(self, model: nn.Module) -> Network:
        """The groups, without layers."""
        values = self.recording.values
        return Network(
            layers=(),
            groups=self.grouping.groups,
            input_shape=next(value.shape for value in values if value.source == "input"),
            output_shape=values[self.recording.outputs[0].index].shape,
            total_parameters=sum(parameter.numel() for parameter in model.parameters()),
            norms=tuple(self.labels.norms),
            written_norms=self.written,
        )

    def cuttable(self) -> tuple[Counter[Place], Counter[Place]]:
        """How many dimensions of a split call, or of the views in a module with sizes, can be cut; how many cannot."""
        groups = [index for index, group in enumerate(self.grouping.groups) if group.frozen is None]
        held = {path: set(sizes.values()) for path, sizes in self.recording.sizes.items()}
        split = {self.calls[call].module for call in self.labels.splits}
        places: list[tuple[Place, Ids]] = [*self.labels.splits.items()]
        places += [(("first", index), ids) for index, ids in self.labels.splits.items()]
        places += [(m, ids) for m, size, ids in self.labels.claims if m in split or size in held.get(m, ())]
        places += [(("width", m), ids) for m, ids in self.wide]
        places += [(("together", m), ids) for m, size, ids in self.labels.claims if size in held.get(m, ())]
        can, cannot = Counter[Place](), Counter[Place]()
        for place, ids in places:
            (can if np.isin(self.grouping.group_of[ids], groups).any() else cannot)[place] += 1
        return can, cannot


def _members(group: ChannelGroup) -> tuple[object, ...]:
    """Equal for the same channels in two readings."""
    return group.channels, *((member.tensor, member.dim) for member in group.members)


def best(first: Reading, trial: Trial) -> Reading:
    """The reading that makes most of the network cuttable; all that does not survive being cut is frozen in it.

    Where a view has dimensions that cannot be cut, the code may mean something else: the number of attention heads
    where their size cannot go, and attributes that hold a size; then widths that are those of a module's input, and
    the first of several parts. What does not make more dimensions cuttable is read as before. Shapes decide first, for
    these are quickly tried.
    """
    readings = fitting(first, trial, ("", "width", "first"))
    while True:
        found = readings.pop()
        found.freeze(trial.differences(found.network(trial.model)))
        if not readings:
            return found
        better = _better(found, readings[-1], found.other - readings[-1].other)
        if better == found.other - readings[-1].other:
            return found
        other = _read(readings[-1], better, trial, found)
        readings += [other] if other else []


def fitting(first: Reading, trial: Trial, kinds: Sequence[str]) -> list[Reading]:
    """Readings of which each makes more cuttable than the one before, as far as shapes tell.

    Args:
        first: to begin with.
        trial: of its model.
        kinds: of places that are read otherwise, one after the other; "" for those without a name. Calls that split a
            dimension are left as they are where the sizes of heads are asked for.
    """
    readings = [first.fitted(trial)]
    for kind in kinds:
        before = readings[-1]
        _, stuck = before.cuttable()
        hopeful = {place for place in stuck if not isinstance(place, tuple) or place[0] == kind}
        if kind == "width":  # of views, too, that only lead somewhere when the rest is read otherwise
            hopeful |= {("width", module) for module, _ in before.again(before.other | hopeful).wide}
        if first.labels.paired:
            hopeful = {place for place in hopeful if not isinstance(place, int)}
        other = _read(before, hopeful, trial)
        readings += [other] if other else []
    return readings


def _read(before: Reading, hopeful: Set[Place], trial: Trial, failed: Reading | None = None) -> Reading | None:
    """Read these places otherwise, as far as that makes more of each cuttable; None if nowhere."""
    tried, other = False, None
    while hopeful:
        trial.deadline.check("reading it otherwise")
        other = other or before.again(before.other | hopeful)
        if tried:
            other = other.fitted(trial, failed or before)
        worse = hopeful - _better(other, before, hopeful)
        if not worse and tried:
            return other
        tried = tried or not worse  # what does not help by itself need not be cut to see it
        other = None if worse else other
        hopeful = hopeful - ({place for place in worse if isinstance(place, int)} or worse)
    return None


def _better(other: Reading, before: Reading, places: Set[Place]) -> set[Place]:
    (more, _), (less, _) = other.cuttable(), before.cuttable()
    return {place for place in places if more[place] > less[place]}


def _list_unused(recording: Recording, labels: Labels) -> None:
    """Weights that forward never read become frozen groups, so that nothing is left out in silence."""
    names = unread(recording)
    for value in recording.values:
        if value.name in names and len(value.shape) > 1:
            ids = labels.block(value.name, 0, value.shape[0])
            labels.mark(ids, "out")
            labels.freeze(ids, "the forward pass of the example does not use it")
