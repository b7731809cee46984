"""Drop the smallest weights of a layer, grow as many others."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hwprune.regrow.masks import SparseMasks
from hwprune.regrow.ranking import top_k
from hwprune.regrow.weights import magnitude

Grow = Callable[[Tensor, int], Tensor]


def drop_and_grow(masks: SparseMasks, name: str, count: int, grow: Grow) -> None:
    """Exchange weights of one layer; as many stay active as were.

    Dropped weights may be grown again at once, as in RigL and GraNet; they are then what they were.

    Args:
        masks: changed, not yet applied.
        name: of the weight.
        count: how many of the smallest active weights to drop.
        grow: takes which elements may be chosen (bool) and how many, returns the chosen ones.
    """
    active = masks.active[name]
    have = int(active.sum())
    count = min(count, have)
    kept = top_k(magnitude(masks.weights[name].parameter), have - count, active)
    masks.active[name] = kept | grow(~kept, count)


def largest(scores: Tensor) -> Grow:
    """Grow where ``scores`` are highest."""
    return lambda among, count: top_k(scores, count, among)
