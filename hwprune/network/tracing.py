"""From a model and an example input to a :class:`Network`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np
from torch import nn

from hwprune.network.attention import make_resizable
from hwprune.network.deadline import Deadline
from hwprune.network.forward import Example
from hwprune.network.grouping import group_channels
from hwprune.network.labels import Ids, Labels
from hwprune.network.layers import activations_of, layers_of
from hwprune.network.network import ChannelGroup, Network
from hwprune.network.propagation import Place, follow_norms, follow_sizes, follow_widths, propagate
from hwprune.network.recorded import Recording, unread
from hwprune.network.recording import record_all
from hwprune.network.surgery import copied
from hwprune.network.tensors import Constants, activations
from hwprune.network.trial import Trial
from hwprune.network.wrappers import unwrapped


def trace(model: nn.Module, example: Example, *, verify: bool = True, deadline_s: float = 300.0) -> Network:
    """Find out what can be cut and what costs time.

    One forward pass is recorded, operator by operator. Every operator has a rule that says how channel
    identities pass through it; an operator without one freezes the channels it touches. Sizes that are
    written into the model's code cannot be seen this way, so every group is then cut on a copy and the
    result is compared with the masked original; groups that fail are frozen with the failure as reason.

    Args:
        model: left as it is (parameters, buffers, mode, random state). Of one that is wrapped for compiling or for
            training on several devices, the model inside is traced, and names are as in that.
        example: the arguments of ``forward``, batch first: a tensor, a tuple of tensors by position, or a dictionary
            of them by name.
        verify: try the cuts. Without it, a size written into the model's code goes unnoticed until
            :func:`~hwprune.network.verify_cut`.
        deadline_s: give up after this many seconds.

    Returns:
        The network. Channels that cannot be cut are in frozen groups, each with its reason.

    Raises:
        ModelError: the model cannot be copied, its forward fails, or time is up.
    """
    model, deadline = unwrapped(model), Deadline(deadline_s)
    working = copied(model)
    make_resizable(working)
    recording = record_all(working, example, deadline)
    found = _Reading(recording)
    if verify:
        found = _best(found, Trial(model, example, deadline, trained=recording.trained))
    layers = layers_of(recording, found.labelled, found.grouping)
    constants = Constants(recording, found.labelled, found.grouping, layers)
    return replace(
        found.network(model),
        layers=layers,
        parameters=constants.parameters(),
        stored=constants.stored(),
        activations=activations(recording, found.labelled, found.grouping, layers),
    )


class _Reading:
    """A recording with labels and groups.

    Args:
        recording: of one forward pass.
        other: what is read in another way.
    """

    def __init__(self, recording: Recording, other: Set[Place] = frozenset()) -> None:
        self.recording, self.labels, self.other = recording, Labels(), other
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

    def freeze(self, found: Mapping[str, str]) -> None:
        """Freeze groups (name → reason), and remember which channels these were."""
        self.failed |= {_members(group): found[group.name] for group in self.grouping.groups if group.name in found}
        self.grouping = self.grouping.with_frozen(found)

    def fitted(self, trial: Trial, before: _Reading | None = None) -> _Reading:
        """Itself, with the groups frozen whose shapes do not fit when cut, or that failed in a reading before."""
        failed = before.failed if before is not None else {}
        known = {group.name: failed[_members(group)] for group in self.grouping.groups if _members(group) in failed}
        self.freeze(known)
        self.grouping = self.grouping.without(trial.needless(self.network(trial.model)))
        self.freeze(trial.misfits(self.network(trial.model)))
        return self

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
        can, cannot = Counter[Place](), Counter[Place]()
        for place, ids in places:
            (can if np.isin(self.grouping.group_of[ids], groups).any() else cannot)[place] += 1
        return can, cannot


def _members(group: ChannelGroup) -> tuple[object, ...]:
    """Equal for the same channels in two readings."""
    return group.channels, *((member.tensor, member.dim) for member in group.members)


def _best(first: _Reading, trial: Trial) -> _Reading:
    """The reading that makes most of the network cuttable; all that does not survive being cut is frozen in it.

    Where a view has dimensions that cannot be cut, the code may mean something else: the number of attention heads
    where their size cannot go, and attributes that hold a size; then widths that are those of a module's input, and
    the first of several parts. What does not make more dimensions cuttable is read as before. Shapes decide first, for
    these are quickly tried.
    """
    readings = [first.fitted(trial)]
    for kind in ("", "width", "first"):
        _, stuck = readings[-1].cuttable()
        hopeful = {place for place in stuck if not isinstance(place, tuple) or place[0] == kind}
        if kind == "width":  # of views, too, that only lead somewhere when the rest is read otherwise
            hopeful |= {("width", module) for module, _ in _Reading(first.recording, readings[-1].other | hopeful).wide}
        other = _read(readings[-1], hopeful, trial)
        readings += [other] if other else []
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


def _read(before: _Reading, hopeful: Set[Place], trial: Trial, failed: _Reading | None = None) -> _Reading | None:
    """Read these places otherwise, as far as that makes more of each cuttable; None if nowhere."""
    tried, other = False, None
    while hopeful:
        trial.deadline.check("reading it otherwise")
        other = other or _Reading(before.recording, before.other | hopeful)
        if tried:
            other = other.fitted(trial, failed or before)
        worse = hopeful - _better(other, before, hopeful)
        if not worse and tried:
            return other
        tried = tried or not worse  # what does not help by itself need not be cut to see it
        other = None if worse else other
        hopeful = hopeful - ({place for place in worse if isinstance(place, int)} or worse)
    return None


def _better(other: _Reading, before: _Reading, places: Set[Place]) -> set[Place]:
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
