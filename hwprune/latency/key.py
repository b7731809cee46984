"""What makes two layers cost the same: everything but their channel counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hwprune.errors import InputError
from hwprune.latency.layer import Layer, Operand
from hwprune.latency.resizing import CHANNELS, call_without_counts

WEIGHT_OPS = ("conv", "conv_transpose", "linear")


@dataclass(frozen=True)
class Key:
    """Identity of a table entry.

    Attributes:
        op: as in ``Layer.op``.
        attributes: settings that decide the cost (JSON-able). Whether there is a bias is not among them: folding
            batch norm gives almost every convolution one.
        inputs: shape of every activation read, None where the channels are.
        axes: the channel counts that the cost is a function of: ``("in_channels", "out_channels")``,
            ``("channels",)`` where they shrink together, or none.
        fused: operators that run inside its kernel, in order, without batch norm (it is folded into weights).
    """

    op: str
    attributes: dict[str, Any]
    inputs: tuple[tuple[int | None, ...], ...]
    axes: tuple[str, ...]
    fused: tuple[str, ...] = ()

    @cached_property
    def identity(self) -> str:
        """Equal exactly for equal keys."""
        return json.dumps([self.alone, self.fused])

    @cached_property
    def alone(self) -> str:
        """Equal for keys that differ in nothing but what is fused."""
        return json.dumps([self.op, self.attributes, self.inputs, self.axes], sort_keys=True)

    def __str__(self) -> str:
        """For messages: ``conv {kernel: [3, 3], …} on 1×C×28×28``."""
        settings = ", ".join(f"{name}: {json.dumps(value)}" for name, value in self.attributes.items())
        shapes = " and ".join(_shape_text(shape) for shape in self.inputs)
        return f"{'+'.join((self.op, *self.fused))} {{{settings}}} on {shapes}"


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "×".join("C" if size is None else str(size) for size in shape) or "a scalar"


def key_of(layer: Layer, fused: tuple[str, ...] = ()) -> Key:
    """The key under which a layer's latency is listed.

    Args:
        layer: any layer.
        fused: operators that run inside its kernel, in order.
    """
    attributes = _weight_attributes(layer) if layer.op in WEIGHT_OPS else call_without_counts(layer)
    shapes = []
    for operand in layer.inputs:
        shape: list[int | None] = list(operand.shape)
        dim = channel_dim(layer, operand)
        if dim is not None:
            shape[dim] = None
        shapes.append(tuple(shape))
    axes = tuple(name for name, _ in costed_operands(layer))
    return Key(layer.op, attributes, tuple(shapes), axes, fused)


def _weight_attributes(layer: Layer) -> dict[str, Any]:
    attributes = {name: value for name, value in layer.attributes.items() if name != "bias"}
    if layer.op == "conv":
        attributes.pop("output_padding", None)  # a transposed convolution's
    if layer.cut_per_group:
        groups = attributes.pop("conv_groups")
        attributes["channels_per_group"] = [layer.inputs[0].shape[1] // groups, layer.output.shape[1] // groups]
    return attributes


def channel_dim(layer: Layer, operand: Operand) -> int | None:
    """Where an operand's channels are; a layer with weights has some even where they can never be cut."""
    if operand.channel_dim is not None or layer.op not in WEIGHT_OPS:
        return operand.channel_dim
    return len(operand.shape) - 1 if layer.op == "linear" else 1


def costed_operands(layer: Layer) -> tuple[tuple[str, Operand], ...]:
    """The operands whose channel counts decide the cost, each with the name of its axis.

    Of an operator without weights, channels are counted as if other dimensions that vary were dense: half of the heads
    cost what all of them cost with half of their size.
    """
    if layer.op in WEIGHT_OPS and not layer.cut_per_group:
        ends = (("in_channels", layer.inputs[0]), ("out_channels", layer.output))
        return tuple((name, replace(operand, others=())) for name, operand in ends)
    return ((CHANNELS, layer.output),) if channel_dim(layer, layer.output) is not None else ()


def sizes_of(layer: Layer, widths: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """Channel counts along the key's axes.

    Args:
        layer: any layer.
        widths: group name → channels kept; None for the dense network.

    Raises:
        InputError: ``widths`` lacks a group that the layer depends on.
    """
    sizes = []
    for _, operand in costed_operands(layer):
        dim = channel_dim(layer, operand)
        assert dim is not None
        try:
            fixed = widths is None or operand.channel_dim is None
            sizes.append(operand.shape[dim] if fixed else operand.channels(operand.positions.size(widths or {})))
        except KeyError as error:
            raise InputError(
                f"no width is given for channel group {error.args[0]!r}, which layer {layer.name} depends on",
                hint="give the widths of all groups (Network.dense_widths holds the dense ones)",
            ) from None
    return tuple(sizes)
