"""From a model and an example input to a :class:`Network`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import replace

import numpy as np
from torch import nn

from hwprune.network.forward import Example
from hwprune.network.grouping import group_channels
from hwprune.network.labels import Ids, Labels
from hwprune.network.layers import activations_of, layers_of
from hwprune.network.network import ChannelGroup, Network
from hwprune.network.propagation import follow_sizes, propagate, unused
from hwprune.network.recording import Deadline, Recording, record
from hwprune.network.surgery import copied
from hwprune.network.tensors import Constants, activations
from hwprune.network.trial import failures
from hwprune.network.wrappers import unwrapped


def trace(model: nn.Module, example: Example, *, verify: bool = True, deadline_s: float = 60.0) -> Network:
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
    recording = record(working, example, deadline)
    found = _Reading(recording)
    if verify:
        found = _read_otherwise(found.tried(model, example, deadline), model, example, deadline)
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
        other: what is read in another way: calls that split a dimension, by their index, of which not the last part
            carries the channels but the one before; modules, by their path, whose attributes follow the sizes of views.
    """

    def __init__(self, recording: Recording, other: Container[int | str] = ()) -> None:
        self.recording, self.labels = recording, Labels()
        self.labelled = propagate(recording, self.labels, other)
        follow_sizes(recording, self.labels, other)
        _list_unused(recording, self.labels)
        self.grouping = group_channels(self.labels, activations_of(recording, self.labelled))
        self.failed: dict[tuple[object, ...], str] = {}

    def tried(self, model: nn.Module, example: Example, deadline: Deadline, before: _Reading | None = None) -> _Reading:
        """With the groups frozen whose cuts do not survive, or did not in a reading before; itself."""
        if before is not None:
            known = {group.name: before.failed.get(_members(group)) for group in self.grouping.groups}
            self.grouping = self.grouping.with_frozen({name: why for name, why in known.items() if why})
        network = self.network(model)
        if network.cuttable:
            found = failures(model, network, example, deadline)
            self.failed = {_members(group): found[group.name] for group in network.cuttable if group.name in found}
            self.grouping = self.grouping.with_frozen(found)
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
        )

    def cuttable(self) -> tuple[Counter[int | str], Counter[int | str]]:
        """How many dimensions of a split call, or of the views in a module with sizes, can be cut; how many cannot."""
        groups = [index for index, group in enumerate(self.grouping.groups) if group.frozen is None]
        held = {path: set(sizes.values()) for path, sizes in self.recording.sizes.items()}
        split = {self.recording.calls[call].module for call in self.labels.splits}
        places: list[tuple[int | str, Ids]] = [*self.labels.splits.items()]
        places += [(m, ids) for m, size, ids in self.labels.claims if m in split or size in held.get(m, ())]
        can, cannot = Counter[int | str](), Counter[int | str]()
        for place, ids in places:
            (can if np.isin(self.grouping.group_of[ids], groups).any() else cannot)[place] += 1
        return can, cannot


def _members(group: ChannelGroup) -> tuple[object, ...]:
    """Equal for the same channels in two readings."""
    return group.channels, *((member.tensor, member.dim) for member in group.members)


def _read_otherwise(found: _Reading, model: nn.Module, example: Example, deadline: Deadline) -> _Reading:
    """Where a view has dimensions that cannot be cut, try what else the code may mean.

    The number of attention heads where their size cannot go; attributes that hold a size. What does not make more
    dimensions cuttable is read as before.
    """
    before, stuck = found.cuttable()
    hopeful = set(stuck)
    after, _ = _Reading(found.recording, hopeful).cuttable()
    while hopeful := {place for place in hopeful if after[place] > before[place]}:
        deadline.check("reading it otherwise")
        other = _Reading(found.recording, hopeful).tried(model, example, deadline, found)
        after, _ = other.cuttable()
        if all(after[place] > before[place] for place in hopeful):
            return other
    return found


def _list_unused(recording: Recording, labels: Labels) -> None:
    """Weights that forward never read become frozen groups, so that nothing is left out in silence."""
    names = unused(recording)
    for value in recording.values:
        if value.name in names and len(value.shape) > 1:
            ids = labels.block(value.name, 0, value.shape[0])
            labels.mark(ids, "out")
            labels.freeze(ids, "the forward pass of the example does not use it")
