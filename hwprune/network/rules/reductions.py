"""Operators that mix the positions of some dimensions."""

from __future__ import annotations

import numpy as np

from hwprune.network.rules.step import Dims, Step

_REDUCED = "reduced over the channels"


def reduction(step: Step) -> list[Dims]:
    """Mean, sum, maximum…: channels survive unless the sum runs over them."""
    source = step.source
    rank = len(source.shape)
    given = step.arguments.get("dim")
    dims = [given] if isinstance(given, int) else list(given or range(rank))
    reduced = {dim % max(1, rank) for dim in dims}
    for ids in (source.dims[dim] for dim in reduced if dim in source.dims):
        if step.norm is None:
            step.freeze(ids, _REDUCED)
        else:
            step.labels.written.append((step.call.module, step.norm, ids, f"{_REDUCED} ({step.call.place})"))
    kept = [dim for dim in range(rank) if dim not in reduced]
    if step.arguments.get("keepdim"):
        result: Dims = {dim: source.dims[dim] for dim in kept if dim in source.dims}
    else:
        result = {new: source.dims[old] for new, old in enumerate(kept) if old in source.dims}
    return [result] * len(step.shapes)


def along(step: Step) -> list[Dims]:
    """Softmax, cumulative sum, sort…: every position along ``dim`` depends on the others; shape unchanged."""
    dim = step.dim()
    step.freeze_dims(step.source, [dim], "every channel depends on the others")
    return [dict(step.source.dims)] * len(step.shapes)


def roll(step: Step) -> list[Dims]:
    """Positions shift along some dimensions: exact, but only while the sizes stay."""
    source = step.source
    result = dict(source.dims)
    if not step["dims"]:  # rolled as if it were flat
        step.freeze_dims(source, result, "channels are moved by a fixed offset")
        return []
    for dim, shift in zip(step["dims"], step["shifts"], strict=True):
        dim %= len(source.shape)
        if dim in result:
            step.freeze(result[dim], "channels are moved by a fixed offset")
            result[dim] = np.roll(result[dim], shift)
    return [result]
