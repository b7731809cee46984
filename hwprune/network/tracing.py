"""From a model and an example input to a :class:`Network`."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from hwprune.network.attention import make_resizable
from hwprune.network.deadline import Deadline
from hwprune.network.dimensions import Dimensions
from hwprune.network.forward import Example
from hwprune.network.head_sizes import with_head_sizes
from hwprune.network.layers import layers_of
from hwprune.network.network import Network
from hwprune.network.reading import Reading, best
from hwprune.network.recording import record_all
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
    found = Reading(recording)
    network, readings = found.network(model), [found]
    if verify:
        trial = Trial(model, example, deadline, branches=recording.trains_otherwise)
        found = best(found, trial)
        network, readings = found.network(model), [found]
        if head_sizes:
            network, readings = with_head_sizes(found, trial)
    dimensions = Dimensions([(reading.labelled, reading.grouping) for reading in readings])
    layers = layers_of(recording, found.labelled, dimensions)
    constants = Constants(recording, found.labelled, dimensions, layers)
    return replace(
        network,
        layers=layers,
        parameters=constants.parameters(),
        stored=constants.stored(),
        activations=activations(recording, found.labelled, dimensions, layers),
    )
