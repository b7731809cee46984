"""From a model and an example input to a :class:`Network`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from hwprune.latency.layer import Layer
from hwprune.network.attention import make_resizable
from hwprune.network.deadline import Deadline
from hwprune.network.dimensions import Dimensions
from hwprune.network.forward import Example
from hwprune.network.head_sizes import with_head_sizes
from hwprune.network.layers import layers_of
from hwprune.network.network import Network
from hwprune.network.reading import Reading, best
from hwprune.network.recording import record_all
from hwprune.network.residuals import blocks_of
from hwprune.network.surgery import copied
from hwprune.network.tensors import Constants, activations
from hwprune.network.trial import Trial
from hwprune.network.wrappers import unwrapped


def trace(
    model: nn.Module,
    example: Example,
    *,
    verify: bool = True,
    head_sizes: bool = False,
    deadline_s: float = 300.0,
) -> Network:
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
        head_sizes: let the size of attention heads be cut as well, beside their number, where that can be tried.
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
    found, trial = Reading(recording), Trial(model, example, deadline, trained=recording.trained)
    network, readings, sound = found.network(model), [found], None
    if verify:
        if found.is_clear():
            network = found.useful(trial).network(model)
            sound = trial.together(_with_blocks(network, readings)[0])
        if sound is None:
            found = best(found, trial)
            network, readings = found.network(model), [found]
        if head_sizes:
            network, readings = with_head_sizes(found, trial)
    network, layers, dimensions = _with_blocks(network, readings)
    if verify and network.blocks:
        network = replace(network, blocks=trial.removable(network, [] if head_sizes else sound or []))
    constants = Constants(recording, found.labelled, dimensions, layers)
    there = {name: block.presence for block in network.blocks for name in block.layers}
    return replace(
        network,
        layers=tuple(replace(layer, present=there.get(layer.name, "")) for layer in layers),
        parameters=tuple(
            replace(one, present=next((block.presence for block in network.blocks if block.holds(one.name)), ""))
            for one in constants.parameters()
        ),
        stored=tuple(replace(one, present=there.get(one.layer or "", "")) for one in constants.stored()),
        activations=activations(recording, found.labelled, dimensions, layers),
    )


def _with_blocks(network: Network, readings: Sequence[Reading]) -> tuple[Network, tuple[Layer, ...], Dimensions]:
    """The network with the blocks that the recording tells of, and its layers."""
    recording, labelled = readings[0].recording, readings[0].labelled
    dimensions = Dimensions([(reading.labelled, reading.grouping) for reading in readings])
    layers = layers_of(recording, labelled, dimensions)
    return replace(network, blocks=blocks_of(recording, labelled, network.cuttable, layers)), layers, dimensions
