"""Channel identities: every position of every tensor dimension gets an id; ties say which are the same.

Nothing is decided while a model is walked: rules only add ties, freezes and roles. The classes are
computed once, in :mod:`hwprune.network.grouping`, so the whole cost is linear in the number of positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprune.network.network import Role

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """A tensor of the forward pass, with the identity of its positions along some dimensions.

    Attributes:
        shape: its sizes.
        dims: dimension → ids, one per position. A dimension that is not listed cannot shrink.
        constant: does not depend on the model's input (parameters and what is computed from them).
        origin: what it is, in words, for messages.
    """

    shape: tuple[int, ...]
    dims: Mapping[int, Ids] = field(default_factory=dict)
    constant: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Block:
    """A run of ids: the positions of one dimension of one tensor of the model ("" for no tensor)."""

    tensor: str
    dim: int
    start: int
    size: int


class Labels:
    """Hands out ids and collects what is known about them.

    Attributes:
        blocks: of ids, in the order they were handed out.
        ties: ids that can only go together, pair by pair.
        freezes: ids that cannot go, and why.
        roles: index of a block → what its tensor does with these channels.
        written: of norms that are written out: their module, its first parameter, the channels that are reduced over,
            and why these are frozen if it turns out to be no norm.
        norms: weights of the layer norms whose statistics run over the channels that are kept.
        claims: module in which an operator was told a size, the size, and the ids of that dimension.
        told: module, ids of the unequal parts that it takes a dimension apart into, and why they are frozen if it turns
            out that none of its attributes holds their sizes.
        squeezed: ids of dimensions that would be squeezed away if one channel were left.
        splits: index of a call that splits a dimension either part of which could carry its channels → their ids.
        multiplied: ids of all dimensions of two activations that are multiplied as matrices.

    Args:
        paired: dimensions over which two activations are multiplied and summed (the size of a head) go together;
            otherwise they are frozen.
    """

    def __init__(self, *, paired: bool = False) -> None:
        self.paired = paired
        self.blocks: list[Block] = []
        self.ties: list[tuple[Ids, Ids]] = []
        self.freezes: list[tuple[Ids, str]] = []
        self.roles: dict[int, Role] = {}
        self.norms: list[str] = []
        self.written: list[tuple[str, str, Ids, str]] = []
        self.squeezed: list[Ids] = []
        self.splits: dict[int, Ids] = {}
        self.multiplied: list[Ids] = []
        self.claims: list[tuple[str, int, Ids]] = []
        self.told: list[tuple[str, list[Ids], str]] = []
        self.size = 0
        self._starts: list[int] = []
        self._known: dict[tuple[str, int], Ids] = {}

    def block(self, tensor: str, dim: int, size: int) -> Ids:
        """The ids of one dimension of a parameter or buffer; the same ones every time."""
        if (tensor, dim) not in self._known:
            self._known[tensor, dim] = self._new(tensor, dim, size)
        return self._known[tensor, dim]

    def fixed(self, size: int, reason: str) -> Ids:
        """New ids for positions that belong to no tensor of the model and never go away."""
        ids = self._new("", 0, size)
        self.freeze(ids, reason)
        return ids

    def _new(self, tensor: str, dim: int, size: int) -> Ids:
        self.blocks.append(Block(tensor, dim, self.size, size))
        self._starts.append(self.size)
        self.size += size
        return np.arange(self.size - size, self.size, dtype=np.int64)

    def tie(self, first: Ids, second: Ids) -> None:
        """These positions can only be removed together, pair by pair."""
        if first.shape != second.shape:
            raise ValueError(f"cannot tie {first.shape} to {second.shape} positions")
        self.ties.append((first.ravel(), second.ravel()))

    def freeze(self, ids: Ids, reason: str) -> None:
        """These positions cannot be removed; the first reason given for a group is the one reported."""
        self.freezes.append((ids.ravel(), reason))

    def mark(self, ids: Ids, role: Role) -> None:
        """What the tensors that own these positions do with them; the first answer stays."""
        for block in self._blocks(ids):
            if self.blocks[block].tensor:
                self.roles.setdefault(block, role)

    def normalise(self, ids: Ids | None) -> bool:
        """Note the tensor that owns these positions in ``norms``, if it is one tensor of the model."""
        owners = {self.blocks[block].tensor for block in self._blocks(ids)} if ids is not None else set()
        self.norms += [name for name in owners if name and name not in self.norms]
        return len(owners) == 1 and "" not in owners

    def _blocks(self, ids: Ids) -> list[int]:
        found: list[int] = np.unique(np.searchsorted(self._starts, ids, side="right") - 1).tolist()
        return found
