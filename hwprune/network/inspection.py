"""What can be cut and what cannot, as a document: that of ``hwprune inspect``, its table and its picture."""

from __future__ import annotations

from typing import Any

from hwprune.latency.layer import Layer, Operand
from hwprune.network.network import Activation, Block, ChannelGroup, Network

_MAKES = ("out", "norm", "scale")


def inspection(network: Network) -> dict[str, Any]:
    """Everything that can be cut and everything that cannot, with what it is worth and why.

    Args:
        network: a traced model.

    Returns:
        A JSON-able document. ``parameters`` and ``macs`` are counts in the dense network; ``reachable`` is the share
        of each that goes when every cuttable group is cut to one channel.

        ``groups``
            ``name``; ``channels``, how many steps it has; ``positions``, what one step is: 1 channel, or as many as
            a head or a convolution's group has; ``tensors``, how many shrink with it; ``attributes`` that follow it;
            ``parameters`` and ``macs`` that go when it alone is cut to one channel; ``frozen``, the reason or None.
        ``blocks``
            that can be removed: ``name``, ``groups`` that are in no other place, ``layers`` that go, ``parameters`` and
            ``macs`` that go with it.
        ``layers``
            in execution order: ``name``, ``op``, ``weights`` (it has its own), ``width_in`` and ``width_out`` (None
            where no dimension can shrink), ``shape`` of its output, ``groups`` that this depends on, and ``frozen``:
            if there are none, the names of the groups that keep it whole.
        ``edges``
            one per activation: ``maker`` (None: an input of the network), ``readers``, ``shape``, ``groups``, and
            ``output``: it leaves the network.
    """
    parameters, macs = network.reachable
    groups_of = {activation.maker: _groups(activation) for activation in reversed(network.activations)}
    frozen_of = _frozen_of(network)
    return {
        "cuttable": len(network.cuttable),
        "frozen": len(network.frozen),
        "parameters": network.total_parameters,
        "macs": network.macs_at(network.dense_widths),
        "reachable": {"parameters": parameters, "macs": macs},
        "input_shape": list(network.input_shape),
        "output_shape": list(network.output_shape),
        "groups": [_group(network, group) for group in network.groups],
        "blocks": [_block(network, block) for block in network.blocks],
        "layers": [
            _layer(layer, groups_of.get(layer.name) or list(layer.output.axis.groups), frozen_of[layer.name])
            for layer in network.layers
        ],
        "edges": [_edge(network, activation) for activation in network.activations],
    }


def _group(network: Network, group: ChannelGroup) -> dict[str, Any]:
    parameters, macs = network.removable([group.name] if group.frozen is None else [])
    return {
        "name": group.name,
        "channels": group.channels,
        "positions": max(1, group.positions),
        "tensors": len({member.tensor for member in group.tensors}),
        "attributes": [member.tensor for member in group.members if member.role == "size"],
        "parameters": parameters,
        "macs": macs,
        "frozen": group.frozen,
    }


def _block(network: Network, block: Block) -> dict[str, Any]:
    parameters, macs = network.saved_by({**network.dense_widths, **dict.fromkeys(block.groups, 0)})
    return {
        "name": block.name,
        "groups": list(block.groups),
        "layers": list(block.layers),
        "parameters": parameters,
        "macs": macs,
    }


def _layer(layer: Layer, groups: list[str], frozen: list[str]) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.op,
        "weights": layer.call is None,
        "width_in": _width(layer.inputs[0]) if layer.inputs else None,
        "width_out": _width(layer.output),
        "shape": list(layer.output.shape),
        "groups": groups,
        "frozen": [] if groups else frozen,
    }


def _edge(network: Network, activation: Activation) -> dict[str, Any]:
    widths = network.dense_widths
    return {
        "maker": activation.maker,
        "readers": list(activation.readers),
        "shape": [axis.size(widths) for axis in activation.dims],
        "groups": _groups(activation),
        "output": activation.output,
    }


def _groups(activation: Activation) -> list[str]:
    return list(dict.fromkeys(name for axis in activation.dims for name in axis.groups))


def _width(operand: Operand) -> int | None:
    return None if operand.channel_dim is None else operand.shape[operand.channel_dim]


def _frozen_of(network: Network) -> dict[str, list[str]]:
    """The frozen groups of what each layer writes: those of its own tensors; without any, those of what it reads.

    Where cuttable channels are written, what was read before does not matter.
    """
    found = _frozen_of_tensors(network)
    makers: dict[str, list[str]] = {}
    for activation in network.activations:
        for reader in activation.readers if activation.maker is not None else ():
            makers.setdefault(reader, []).append(activation.maker or "")
    for layer in network.layers:
        names = found[layer.name]
        if not names and layer.call is None:  # a further use of a shared module
            names = found.get(layer.name.partition("#")[0], [])
        elif not names and not layer.output.axis.addends:
            names = [name for maker in makers.get(layer.name, ()) for name in found[maker]]
        found[layer.name] = list(dict.fromkeys(names))
    return found


def _frozen_of_tensors(network: Network) -> dict[str, list[str]]:
    """Layer → the frozen groups whose channels its own tensors make."""
    groups: dict[str, list[str]] = {}
    for group in network.frozen:
        for member in group.members:
            if member.role in _MAKES:
                groups.setdefault(member.tensor, []).append(group.name)
    found: dict[str, list[str]] = {layer.name: [] for layer in network.layers}
    for tensor in network.parameters:
        if tensor.layer is not None:
            found[tensor.layer] += groups.get(tensor.name, [])
    return found
