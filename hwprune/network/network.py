"""The Network: everything that can be cut, and everything that costs time.

Made by :func:`hwprune.network.trace`; read by saliency, budget, surgery and prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwprune.budget import Axis, Product
from hwprune.latency.layer import Layer

RESCALED = "rescaled "
Role = Literal["out", "in", "norm", "scale", "size"]


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor of the model that a channel group runs through.

    Attributes:
        tensor: name in the model's ``state_dict`` (parameter or buffer); with the role ``size``, of an attribute.
        dim: the dimension that is cut.
        role: ``out`` (the layer that makes the channel: filter and bias), ``in`` (a layer that reads
            it), ``norm`` (affine parameters and statistics of a normalisation), ``scale`` (any other
            per-channel parameter), ``size`` (an attribute of a module that holds how many of these there are).
        index: int64, shape (channels, k): the k positions in ``dim`` that belong to each channel.
    """

    tensor: str
    dim: int
    role: Role
    index: NDArray[np.int64]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be cut together, with exact positions in every tensor they touch.

    Attributes:
        name: the module (path) that first produces these channels; unique.
        channels: how many there are in the dense network.
        members: every tensor dimension that shrinks with the group.
        frozen: why the group cannot be cut; None if it can.
        rescaled: what is multiplied by the square root of the share of channels that stay: of a size of heads whose
            square root the model divides by, the weights and biases that make the queries.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    frozen: str | None = None
    rescaled: tuple[Member, ...] = ()

    @property
    def positions(self) -> int:
        """How many positions of the layers that make and read it a channel is, or divides: 1, or of a head its size."""
        return math.gcd(*(member.index.shape[1] for member in self.members if member.role in ("out", "in")))

    @property
    def tensors(self) -> tuple[Member, ...]:
        """The members that are tensors of the model."""
        return tuple(member for member in self.members if member.role != "size")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor whose sizes follow from group widths.

    Attributes:
        dims: one axis per dimension; only cuttable groups appear in them.
        dtype: element type in the traced model (``float32``).
    """

    dims: tuple[Axis, ...]
    dtype: str

    @property
    def elements(self) -> Product:
        """How many elements it has."""
        return Product.of(self.dims)


@dataclass(frozen=True, kw_only=True)
class StoredTensor(Tensor):
    """A tensor that does not depend on the input.

    Attributes:
        name: in the model's ``state_dict``; for what is computed from several of these, all of their names.
        layer: the first layer that reads it; None if no layer does.
    """

    name: str
    layer: str | None


@dataclass(frozen=True, kw_only=True)
class Activation(Tensor):
    """A tensor that flows between layers; views of it are the same one.

    Attributes:
        maker: the layer that writes it; None for an input of the network.
        readers: the layers that read it, in execution order.
        output: it leaves the network.
    """

    maker: str | None
    readers: tuple[str, ...]
    output: bool


@dataclass(frozen=True)
class Network:
    """A traced model.

    Attributes:
        layers: in execution order.
        groups: cuttable and frozen ones, in execution order of their first producer; sizes of heads, which cross these,
            behind them.
        input_shape: of the example input, batch first.
        output_shape: of the (first) output tensor.
        total_parameters: number of elements in all parameters of the dense model.
        parameters: as the model holds them.
        stored: what layers read besides activations: parameters, buffers, and what is computed from these.
        activations: what flows through it: inputs first, then in order of the layers that write them.
        norms: weights of layer norms; their statistics run over the channels that are kept.
        written_norms: first parameter of every module that normalises over channels by operators of its own → the
            dimension of its input, counted from the end.
    """

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    total_parameters: int
    parameters: tuple[StoredTensor, ...] = ()
    stored: tuple[StoredTensor, ...] = ()
    activations: tuple[Activation, ...] = ()
    norms: tuple[str, ...] = ()
    written_norms: Mapping[str, int] = field(default_factory=dict)

    @property
    def cuttable(self) -> tuple[ChannelGroup, ...]:
        """Groups that can be cut."""
        return tuple(group for group in self.groups if group.frozen is None)

    @property
    def frozen(self) -> tuple[ChannelGroup, ...]:
        """Groups that cannot be cut; each says why in ``frozen``."""
        return tuple(group for group in self.groups if group.frozen is not None)

    @property
    def dense_widths(self) -> dict[str, int]:
        """Width of every group before anything is cut."""
        return {group.name: group.channels for group in self.groups}

    def parameters_at(self, widths: Mapping[str, int]) -> int:
        """Elements of all parameters at these widths (cuttable group → channels kept)."""
        return round(sum(tensor.elements.at(widths) for tensor in self.parameters))

    def macs_at(self, widths: Mapping[str, int]) -> int:
        """Multiply-accumulates of all layers at these widths (cuttable group → channels kept)."""
        return sum(layer.macs_at(widths) for layer in self.layers)

    def removable(self, names: Iterable[str]) -> tuple[int, int]:
        """Parameters and multiply-accumulates that go when these cuttable groups are cut to one channel each."""
        dense = self.dense_widths
        least = {**dense, **dict.fromkeys(names, 1)}
        return self.parameters_at(dense) - self.parameters_at(least), self.macs_at(dense) - self.macs_at(least)

    @property
    def reachable(self) -> tuple[float, float]:
        """Share of parameters and of multiply-accumulates that go when one channel of every cuttable group is left."""
        parameters, macs = self.removable(group.name for group in self.cuttable)
        dense = self.dense_widths
        return parameters / max(1, self.parameters_at(dense)), macs / max(1, self.macs_at(dense))

    def cuts(self, kept: Mapping[str, Sequence[int]]) -> dict[str, dict[int, list[int]]]:
        """Positions to keep in every tensor dimension.

        Args:
            kept: group name → kept channels (indices in ``range(group.channels)``); a group that is
                not named keeps everything.

        Returns:
            tensor name → dimension → sorted positions that stay. Only dimensions that lose
            something are listed. Complexity: linear in the positions of the touched tensors. For what is rescaled:
            ``RESCALED`` and the tensor's name → dimension → its positions, and −1 → channels kept, and all there were.
        """
        removed: dict[tuple[str, int], set[int]] = {}
        for group in self.groups:
            if group.name not in kept:
                continue
            gone = np.setdiff1d(np.arange(group.channels), np.asarray(kept[group.name], dtype=np.int64))
            for member in group.members if gone.size else ():
                removed.setdefault((member.tensor, member.dim), set()).update(member.index[gone].ravel().tolist())
        sizes = self._dimension_sizes()
        result: dict[str, dict[int, list[int]]] = {}
        for (tensor, dim), positions in removed.items():
            result.setdefault(tensor, {})[dim] = [i for i in range(sizes[tensor, dim]) if i not in positions]
        for group in self.groups:
            left = len(kept.get(group.name, range(group.channels)))
            for member in group.rescaled if left < group.channels else ():
                rows = sorted(member.index.ravel().tolist())
                result[RESCALED + member.tensor] = {member.dim: rows, -1: [left, group.channels]}
        return result

    def _dimension_sizes(self) -> dict[tuple[str, int], int]:
        """Groups cover every position of a dimension, some of them several times."""
        sizes: dict[tuple[str, int], int] = {}
        for group in self.groups:
            for member in group.members:
                key = (member.tensor, member.dim)
                sizes[key] = max(sizes.get(key, 0), int(member.index.max()) + 1)
        return sizes
