"""A network's bytes and parameters, layer by layer, at given widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwprune.errors import InputError
from hwprune.footprint.liveness import steps
from hwprune.footprint.weights import weight_bytes
from hwprune.network import Network
from hwprune.targets import Runtime


@dataclass(frozen=True)
class LayerFootprint:
    """What one layer takes.

    Attributes:
        name: of the layer.
        parameters: elements of the parameters that no earlier layer reads.
        weight_bytes: what the engine stores for it.
        held_bytes: activations held while its kernel runs; None if it runs inside another layer's, or is removed.
    """

    name: str
    parameters: int
    weight_bytes: int
    held_bytes: int | None


@dataclass(frozen=True)
class Footprint:
    """What a network takes.

    Attributes:
        parameters: elements of all parameters.
        weight_bytes: weights as an engine stores them, in bytes; its file holds the graph besides.
        activation_bytes: the most activations held at once, inputs and outputs included, in bytes.
        layers: in execution order.
    """

    parameters: int
    weight_bytes: int
    activation_bytes: int
    layers: tuple[LayerFootprint, ...]

    @property
    def memory_bytes(self) -> int:
        """Memory while it runs: weights and activations, in bytes."""
        return self.weight_bytes + self.activation_bytes


def footprint(
    network: Network, runtime: Runtime, precision: str = "fp32", widths: Mapping[str, int] | None = None
) -> Footprint:
    """Work out a network's bytes.

    Args:
        network: a traced model.
        runtime: says what runs inside another layer's kernel.
        precision: of the engine.
        widths: cuttable group → channels kept; the dense network if not given.

    Raises:
        InputError: an unknown precision, or a width is missing.
    """
    widths = network.dense_widths if widths is None else widths
    missing = [group.name for group in network.cuttable if group.name not in widths]
    if missing:
        raise InputError(f"no width is given for {', '.join(missing)}", hint="give the widths of all groups")
    stored = weight_bytes(network, precision)
    there = {layer.name for layer in network.layers if layer.is_there(widths)}
    held = {s.layer: round(s.bytes_at(widths)) for s in steps(network, runtime, precision) if s.layer in there}
    owned: dict[str, float] = {}
    for tensor in network.parameters:
        if tensor.layer is not None:
            owned[tensor.layer] = owned.get(tensor.layer, 0) + tensor.elements_at(widths)
    layers = tuple(
        LayerFootprint(
            name=layer.name,
            parameters=round(owned.get(layer.name, 0)),
            weight_bytes=round(sum(term.at(widths) for term in stored.get(layer.name, ()) if layer.name in there)),
            held_bytes=held.get(layer.name),
        )
        for layer in network.layers
    )
    return Footprint(
        parameters=network.parameters_at(widths),
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        activation_bytes=max(held.values(), default=0),
        layers=layers,
    )
