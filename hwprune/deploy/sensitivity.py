"""Which nodes of a model a lower precision hurts most, and how few of them have to be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import onnx

M = TypeVar("M")
SAME = 1.05  # times the least error: fewer nodes are worth that


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What a lower precision does to one node.

    Attributes:
        node: its name.
        op: its operator.
        layer: the module whose weights it reads; empty if it reads none.
        error: relative L2 of the model's outputs with this node alone in that precision; infinite where they overflow.
        largest: the largest magnitude that it read or wrote, where that was out of range.
    """

    node: str
    op: str
    layer: str
    error: float
    largest: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; what is not finite is null."""
        return {
            k: v if isinstance(v, str) or (v is not None and np.isfinite(v)) else None for k, v in asdict(self).items()
        }


def layer_of(node: onnx.NodeProto) -> str:
    """The module whose weights a node reads, by the name the exporter gives them."""
    named = (value.rpartition(".")[0] for value in node.input[1:])
    return next((layer for layer in named if layer), "")


def fewest(
    ranking: Callable[[], Sequence[str]],
    build: Callable[[Sequence[str]], M],
    error: Callable[[M], float],
    met: Callable[[M], bool],
) -> tuple[M, int, bool]:
    """Leave out the most sensitive nodes, as few as meet a gate.

    Their number is doubled until the gate is met, then halved back to the fewest. Where it is never met, those few are
    left out beyond which next to nothing is gained.

    Args:
        ranking: gives names of nodes, the most sensitive one first; asked for only if the gate is missed with all. The
            last one is never left out.
        build: makes the model without some of them.
        error: of such a model.
        met: whether it meets the gate.

    Returns:
        The model, how many of the first nodes it is without, and whether the gate is met.
    """
    whole = build(())
    if met(whole):
        return whole, 0, True
    ranked, tried = ranking(), {0: (whole, error(whole))}
    most = max(len(ranked) - 1, 0)

    def passes(count: int) -> bool:
        if count in tried:
            return False  # nothing is left that could be left out
        model = build(ranked[:count])
        tried[count] = (model, error(model))
        return met(model)

    missed, count = 0, min(1, most)
    while not passes(count):
        if count == most:
            least = min(found for _, found in tried.values())
            count = min(one for one, (_, found) in tried.items() if found <= SAME * least)
            return tried[count][0], count, False
        missed, count = count, min(2 * count, most)
    while count - missed > 1:
        middle = (missed + count) // 2
        missed, count = (missed, middle) if passes(middle) else (middle, count)
    return tried[count][0], count, True
