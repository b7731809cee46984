"""The Network: everything that can be cut, and everything that costs time.

Made by :func:`hwprune.network.trace`; read by saliency, budget, surgery and prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwprune.budget import Axis, Product
from hwprune.errors import InputError
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
        least: how many channels have to stay: 2 where a dimension of size 1 would be squeezed away, else 1.
        rescaled: what is multiplied by the square root of the share of channels that stay: of a size of heads whose
            square root the model divides by, the weights and biases that make the queries.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    frozen: str | None = None
    least: int = 1
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
class Block:
    """A residual branch that can be removed: what it adds to then passes unchanged.

    Attributes:
        name: the modules (path) that it consists of; unique.
        groups: the cuttable groups that are nowhere else; when it is removed, their width is 0.
        layers: the layers that go, its addition among them.
        modules: path of every module that is replaced → how many values it returns.
        last: the one of them whose output is added, or becomes what is added.
    """

    name: str
    groups: tuple[str, ...]
    layers: tuple[str, ...]
    modules: Mapping[str, int]
    last: str

    @property
    def presence(self) -> str:
        """The group whose width tells whether the block is there."""
        return self.groups[0]

    def holds(self, tensor: str) -> bool:
        """Whether a tensor (name in the model's ``state_dict``) goes with it."""
        return any(tensor.startswith(f"{path}.") for path in self.modules)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor whose sizes follow from group widths.

    Attributes:
        dims: one axis per dimension; only cuttable groups appear in them.
        dtype: element type in the traced model (``float32``).
        present: a group whose width of 0 means that there is no such tensor, its block being removed; "" for none.
    """

    dims: tuple[Axis, ...]
    dtype: str
    present: str = ""

    @property
    def elements(self) -> Product:
        """How many elements it has, where it is there."""
        return Product.of(self.dims)

    def elements_at(self, widths: Mapping[str, int]) -> float:
        """How many elements it has at these widths (cuttable group → channels kept)."""
        return 0 if self.present and not widths[self.present] else self.elements.at(widths)


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
        blocks: residual branches that can be removed; no two have a layer in common.
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
    blocks: tuple[Block, ...] = ()

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
        return round(sum(tensor.elements_at(widths) for tensor in self.parameters))

    def macs_at(self, widths: Mapping[str, int]) -> int:
        """Multiply-accumulates of all layers at these widths (cuttable group → channels kept)."""
        return sum(layer.macs_at(widths) for layer in self.layers)

    def removable(self, names: Iterable[str]) -> tuple[int, int]:
        """Parameters and multiply-accumulates that go when these cuttable groups are cut as far as they can be."""
        wanted = set(names)
        return self.saved_by({**self.dense_widths, **{g.name: g.least for g in self.groups if g.name in wanted}})

    def saved_by(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and multiply-accumulates that go at these widths (cuttable group → channels kept)."""
        dense = self.dense_widths
        return self.parameters_at(dense) - self.parameters_at(widths), self.macs_at(dense) - self.macs_at(widths)

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
                not named keeps everything; one that keeps nothing is removed with its block.

        Returns:
            tensor name → dimension → sorted positions that stay. Only dimensions that lose
            something are listed. For what is rescaled: ``RESCALED`` and the tensor's name → dimension → its positions,
            and −1 → channels kept, and all there were. A removed block is listed by its modules, see
            :func:`~hwprune.network.cut`. Complexity: linear in the positions of the touched tensors.

        Raises:
            InputError: a group keeps nothing that is in no block, or other than the rest of its block.
        """
        gone_blocks = self.removed(kept)
        left_of: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for group in self.groups:
            if group.name not in kept or not len(kept[group.name]):
                continue
            gone = np.setdiff1d(np.arange(group.channels), np.asarray(kept[group.name], dtype=np.int64))
            for member in group.members if gone.size else ():
                key = (member.tensor, member.dim)
                if key not in left_of:
                    left_of[key] = np.ones(self._dimension_sizes[key], dtype=np.bool_)
                left_of[key][member.index[gone]] = False
        result: dict[str, dict[int, list[int]]] = {}
        for (tensor, dim), there in left_of.items():
            result.setdefault(tensor, {})[dim] = np.flatnonzero(there).tolist()
        for group in self.groups:
            left = len(kept.get(group.name, range(group.channels)))
            for member in group.rescaled if 0 < left < group.channels else ():
                rows = sorted(member.index.ravel().tolist())
                result[RESCALED + member.tensor] = {member.dim: rows, -1: [left, group.channels]}
        for block in gone_blocks:
            result = {name: dims for name, dims in result.items() if not block.holds(name.removeprefix(RESCALED))}
            result |= {path: {outputs: []} for path, outputs in block.modules.items()}
        return result

    def removed(self, kept: Mapping[str, Sequence[int]]) -> list[Block]:
        """The blocks of which nothing is kept (group name → kept channels).

        Raises:
            InputError: a group keeps nothing that is in no block, or other than the rest of its block.
        """
        empty = {name for name, channels in kept.items() if not len(channels)}
        found = [block for block in self.blocks if block.presence in empty]
        if wrong := empty.symmetric_difference(name for block in found for name in block.groups):
            raise InputError(
                f"no channel of group {min(wrong)} would be left",
                hint="keep at least one; only all groups of a block can be removed, together",
            )
        return found

    @cached_property
    def _dimension_sizes(self) -> dict[tuple[str, int], int]:
        """Groups cover every position of a dimension, some of them several times."""
        sizes: dict[tuple[str, int], int] = {}
        for group in self.groups:
            for member in group.members:
                key = (member.tensor, member.dim)
                sizes[key] = max(sizes.get(key, 0), int(member.index.max()) + 1)
        return sizes
