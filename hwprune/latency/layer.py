"""A layer as the latency model sees it: one operation, its shapes and what they depend on.

Torch-free: a ``Layer`` is made by ``hwprune.network`` and read by the profiler and the predictor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwprune.budget.axis import Axis
from hwprune.budget.product import Product


@dataclass(frozen=True)
class Operand:
    """One tensor that flows into or out of a layer.

    Attributes:
        shape: sizes in the dense network, batch first.
        channel_dim: the dimension whose size follows ``axis``; None if no dimension can shrink.
        axis: the size of ``channel_dim`` as a function of group widths.
        others: further dimensions that vary, such as the size of a head beside heads, each with its size.
    """

    shape: tuple[int, ...]
    channel_dim: int | None = None
    axis: Axis = field(default_factory=Axis)
    others: tuple[tuple[int, Axis], ...] = ()

    @property
    def dims(self) -> tuple[Axis, ...]:
        """Every dimension's size."""
        known = dict(self.others if self.channel_dim is None else ((self.channel_dim, self.axis), *self.others))
        return tuple(known.get(dim, Axis(size)) for dim, size in enumerate(self.shape))

    @property
    def positions(self) -> Axis:
        """The size of ``channel_dim`` times those of other dimensions that vary independently."""
        return functools.reduce(Axis.times, (axis for _, axis in self._independent), self.axis)

    def channels(self, positions: int) -> int:
        """So many positions as a size of ``channel_dim``, the other dimensions being dense; rounded up."""
        return -(-positions // math.prod(self.shape[dim] for dim, _ in self._independent))

    @property
    def _independent(self) -> list[tuple[int, Axis]]:
        found, seen = list[tuple[int, Axis]](), set(self.axis.groups)
        for dim, axis in self.others:
            if seen.isdisjoint(axis.groups):
                found.append((dim, axis))
                seen.update(axis.groups)
        return found

    def at(self, widths: Mapping[str, int]) -> tuple[int, ...]:
        """Shape when the groups have these widths."""
        if self.channel_dim is None:
            return self.shape
        return tuple(axis.size(widths) for axis in self.dims)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation of the network, in execution order.

    Attributes:
        name: module path, with the operator appended for functional calls (``layer1.0.add``);
            unique in a network (``#2`` is appended to the second use of a shared module).
        op: ``conv``, ``conv_transpose`` or ``linear`` for layers with weights; otherwise the ATen
            operator's name without namespace and overload (``max_pool2d_with_indices``, ``cat``).
        inputs: activations read, in argument order (weights are not listed).
        output: the (first) tensor written.
        attributes: JSON-able settings that decide the cost. conv/conv_transpose: ``kernel``,
            ``stride``, ``padding``, ``dilation``, ``output_padding`` (lists, one entry per spatial
            dimension), ``bias`` (bool), ``conv_groups`` (int, of the dense layer). linear: ``bias``.
            Other operators: see ``call``.
        call: for other operators, how to run it alone:
            ``{"target": "aten.max_pool2d_with_indices.default", "args": [...], "kwargs": {...}}``
            where ``{"input": i}`` stands for ``inputs[i]`` and ``{"constant": shape, "channel_dim": d,
            "dtype": "float32"}`` for a parameter (d: the dimension that shrinks with the output, or
            None), ``{"torch": "float16"}`` for a dtype or memory format; None for layers with weights.
        macs: multiply-accumulates in the dense network, of weights or of two activations; 0 of other operators.
        parameters: weights and biases in the dense network.
        follows: names of layers whose output this layer alone reads: a runtime may run it
            inside the kernel of one of them.
        work: of a product of activations, its multiply-accumulates as functions of the widths; others follow from
            ``macs``.
        cut_per_group: for grouped and depthwise convolutions, True: input, output and the number of
            convolution groups shrink together (``conv_groups`` scales with the width).
        present: a group whose width of 0 means that there is no such layer, its block being removed; "" for none.
    """

    name: str
    op: str
    inputs: tuple[Operand, ...]
    output: Operand
    attributes: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] | None = None
    macs: int = 0
    parameters: int = 0
    follows: tuple[str, ...] = ()
    cut_per_group: bool = False
    work: tuple[Product, ...] = ()
    present: str = ""

    def is_there(self, widths: Mapping[str, int]) -> bool:
        """Whether the layer runs at these widths."""
        return not self.present or widths[self.present] > 0

    @property
    def scaling(self) -> tuple[Operand, ...]:
        """What multiply-accumulates and weights are proportional to: the output, of all inputs by all outputs both."""
        all_by_all = self.call is None and not self.cut_per_group
        return (self.inputs[0], self.output) if all_by_all else (self.output,)

    @property
    def multiplications(self) -> tuple[Product, ...]:
        """Multiply-accumulates, as functions of the widths."""
        if self.work or not self.macs:
            return self.work
        varying = [(o.shape[o.channel_dim], o.axis) for o in self.scaling if o.channel_dim is not None]
        varying += [(self.output.shape[dim], axis) for dim, axis in self.output.others]
        # Sizes of the dense network stand in the denominator, whatever the convolution's groups are.
        return (Product.of([axis for _, axis in varying], self.macs / math.prod(size for size, _ in varying)),)

    def macs_at(self, widths: Mapping[str, int]) -> int:
        """Multiply-accumulates at these widths."""
        if not self.is_there(widths):
            return 0
        return round(sum(product.at(widths) for product in self.multiplications))

    def _scaled(self, dense: int, widths: Mapping[str, int]) -> int:
        if not dense or not self.is_there(widths):
            return 0
        return round(dense * math.prod(_ratio(operand, widths) for operand in self.scaling))

    def parameters_at(self, widths: Mapping[str, int]) -> int:
        """Weights and biases at these widths."""
        kept = round(self.biases * _ratio(self.output, widths)) if self.is_there(widths) else 0
        return self._scaled(self.parameters - self.biases, widths) + kept

    @property
    def biases(self) -> int:
        """Entries of the bias in the dense network; 0 for a further use of a shared module, as ``parameters`` is."""
        if not (self.attributes.get("bias") and self.parameters):
            return 0
        fixed = -1 if self.op == "linear" else 1  # where the channels are if they can never be cut
        return self.output.shape[fixed if self.output.channel_dim is None else self.output.channel_dim]


def _ratio(operand: Operand, widths: Mapping[str, int]) -> float:
    if operand.channel_dim is None:
        return 1.0
    return operand.axis.size(widths) / operand.shape[operand.channel_dim]
