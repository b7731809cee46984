"""From a model and an example input to a :class:`Network`."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from hwprune.network.forward import Example
from hwprune.network.grouping import group_channels
from hwprune.network.labels import Labels
from hwprune.network.layers import activations_of, layers_of
from hwprune.network.network import Network
from hwprune.network.propagation import propagate, unused
from hwprune.network.recording import Deadline, Recording, record
from hwprune.network.surgery import copied
from hwprune.network.tensors import Constants, activations
from hwprune.network.trial import failures


def trace(model: nn.Module, example: Example, *, verify: bool = True, deadline_s: float = 60.0) -> Network:
    """Find out what can be cut and what costs time.

    One forward pass is recorded, operator by operator. Every operator has a rule that says how channel
    identities pass through it; an operator without one freezes the channels it touches. Sizes that are
    written into the model's code cannot be seen this way, so every group is then cut on a copy and the
    result is compared with the masked original; groups that fail are frozen with the failure as reason.

    Args:
        model: left as it is (parameters, buffers, mode, random state).
        example: one tensor per positional argument of ``forward``, batch first.
        verify: try the cuts. Without it, a size written into the model's code goes unnoticed until
            :func:`~hwprune.network.verify_cut`.
        deadline_s: give up after this many seconds.

    Returns:
        The network. Channels that cannot be cut are in frozen groups, each with its reason.

    Raises:
        ModelError: the model cannot be copied, its forward fails, or time is up.
    """
    deadline = Deadline(deadline_s)
    working = copied(model)
    recording = record(working, example, deadline)
    labels = Labels()
    labelled = propagate(recording, labels)
    _list_unused(recording, labels)
    grouping = group_channels(labels, activations_of(recording, labelled))
    network = Network(
        layers=(),
        groups=grouping.groups,
        input_shape=next(value.shape for value in recording.values if value.source == "input"),
        output_shape=recording.values[recording.outputs[0].index].shape,
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    if verify and network.cuttable:
        grouping = grouping.with_frozen(failures(model, network, example, deadline))
    layers = layers_of(recording, labelled, grouping)
    constants = Constants(recording, labelled, grouping, layers)
    return replace(
        network,
        layers=layers,
        groups=grouping.groups,
        parameters=constants.parameters(),
        stored=constants.stored(),
        activations=activations(recording, labelled, grouping, layers),
    )


def _list_unused(recording: Recording, labels: Labels) -> None:
    """Weights that forward never read become frozen groups, so that nothing is left out in silence."""
    names = unused(recording)
    for value in recording.values:
        if value.name in names and len(value.shape) > 1:
            ids = labels.block(value.name, 0, value.shape[0])
            labels.mark(ids, "out")
            labels.freeze(ids, "the forward pass of the example does not use it")
