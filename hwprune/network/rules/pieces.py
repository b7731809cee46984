"""Operators that join tensors or take parts of them."""

from __future__ import annotations

import numpy as np

from hwprune.network.labels import Ids, Labelled
from hwprune.network.rules.step import Dims, Step, unknown

_FIXED = "taken apart at a fixed position"


def cat(step: Step) -> list[Dims]:
    """``cat``: along the joined dimension identities follow one another, elsewhere they are tied."""
    parts = [tensor for tensor in step.tensors if tensor.shape != (0,)]  # torch skips such ones
    shape = step.shapes[0]
    joined = step["dim"] % len(shape)
    dims: Dims = {}
    for dim in range(len(shape)):
        ids = _joined(step, parts, dim) if dim == joined else step.combine([(part, dim) for part in parts], shape[dim])
        if ids is not None:
            dims[dim] = ids
    return [dims]


def _joined(step: Step, parts: list[Labelled], dim: int) -> Ids | None:
    labelled = [part for part in parts if dim in part.dims]
    if len(labelled) < len(parts) and all(part.constant for part in labelled):
        for part in parts:
            step.freeze_dims(part, [dim], "joined to a tensor of fixed size")
        return None
    # A part without identities keeps its size, so its positions stay where they are behind the others.
    return np.concatenate(
        [
            part.dims[dim] if dim in part.dims else step.labels.fixed(part.shape[dim], f"part of {part.origin}")
            for part in parts
        ]
    )


def stack(step: Step) -> list[Dims]:
    """``stack``: a new dimension; along the others identities are tied."""
    shape = step.shapes[0]
    new = step["dim"] % len(shape)
    dims: Dims = {}
    for dim in range(len(shape) - 1):
        ids = step.combine([(part, dim) for part in step.tensors], step.source.shape[dim])
        if ids is not None:
            dims[dim + (dim >= new)] = ids
    return [dims]


def split(step: Step) -> list[Dims]:
    """``split``, ``chunk``, ``split_with_sizes``: consecutive parts."""
    source, dim = step.source, step.dim()
    sizes = [shape[dim] for shape in step.shapes]
    bounds = [(stop - size, stop) for size, stop in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
    parts = [source.dims[dim][start:stop] for start, stop in bounds] if dim in source.dims else []
    step.labels.claims += [(step.call.module, ids.size, ids) for ids in parts if ids.size > 1]
    if not parts or len(set(sizes)) == 1 or not step.told:
        return [_part(step, source, dim, start, stop) for start, stop in bounds]
    step.labels.told.append((step.call.module, parts, f"{_FIXED} ({step.call.place})"))
    return [{**source.dims, dim: ids} for ids in parts]


def slice_(step: Step) -> list[Dims]:
    """``x[start:stop:step]`` along one dimension."""
    source, dim = step.source, step.dim()
    if step["step"] != 1 and dim in source.dims:
        step.freeze(source.dims[dim], "every n-th channel is taken")
        return [{key: ids for key, ids in source.dims.items() if key != dim}]
    if step["step"] != 1:
        return [dict(source.dims)]
    total, size = source.shape[dim], step.shapes[0][dim]
    start: int = step["start"] or 0
    stop: int = total if step["end"] is None else step["end"]
    if start >= 0 and stop >= 0:
        start = min(start, total)
        return [_part(step, source, dim, start, start + size)]
    dims = dict(source.dims)
    if dim in dims:  # a negative bound is counted from the end: nothing behind it may go
        ids = dims[dim]
        step.freeze(ids[start:] if start < 0 else ids[:start], _FIXED)
        step.freeze(ids[stop:] if stop < 0 else ids[: stop if stop < total else 0], _FIXED)
        start = max(start + total, 0) if start < 0 else start
        dims[dim] = ids[start : start + size]
    return [dims]


def select(step: Step) -> list[Dims]:
    """One position of a dimension, which disappears."""
    dim = step.dim()
    step.freeze_dims(step.source, [dim], "a channel is picked by its position")
    dims = {key - (key > dim): ids for key, ids in step.source.dims.items() if key != dim}
    return [dims] * len(step.shapes)


def index(step: Step) -> list[Dims]:
    """``x[…, i, j, …]`` with integer tensors side by side: other dimensions pass through."""
    source: Labelled = step["self"]
    indices: list[Labelled | None] = step["indices"]
    used = [dim for dim, one in enumerate(indices) if one is not None]
    picked = [one for one in indices if one is not None]
    shape = np.broadcast_shapes(*(one.shape for one in picked))
    first, after = used[0], used[-1] + 1
    wanted = (*source.shape[:first], *shape, *source.shape[after:])
    if used != list(range(first, after)) or wanted != step.shapes[0]:  # as masks
        return unknown(step)
    for one in picked:
        step.freeze_dims(one, one.dims, "an index has no channels")
    step.freeze_dims(source, used, "channels are picked by their positions")
    moved = len(shape) - len(used)
    return [{dim if dim < first else dim + moved: ids for dim, ids in source.dims.items() if dim not in used}]


def index_select(step: Step) -> list[Dims]:
    """Positions of one dimension."""
    dim = step.dim()
    step.freeze_dims(step.source, [dim], "channels are picked by their positions")
    return [{key: ids for key, ids in step.source.dims.items() if key != dim}]


def glu(step: Step) -> list[Dims]:
    """The first half, gated by the second: both shrink alike."""
    source, dim = step.source, step.dim()
    half = source.shape[dim] // 2
    _part(step, source, dim, half, 2 * half)
    return [_part(step, source, dim, 0, half)]


def pad(step: Step) -> list[Dims]:
    """``constant_pad_nd``: padded positions stay, whatever else goes."""
    source = step.source
    amounts: list[int] = step["pad"]
    dims: Dims = {}
    for dim, ids in source.dims.items():
        position = 2 * (len(source.shape) - 1 - dim)
        before, after = amounts[position : position + 2] if position < len(amounts) else (0, 0)
        if min(before, after) < 0:
            return unknown(step)
        if before or after:
            reason = f"channels added by padding ({step.call.place})"
            ids = np.concatenate([step.labels.fixed(before, reason), ids, step.labels.fixed(after, reason)])
        dims[dim] = ids
    return [dims]


def _part(step: Step, source: Labelled, dim: int, start: int, stop: int) -> Dims:
    """Positions ``start`` to ``stop`` of one dimension.

    One of k equal parts: the code most likely divides whatever size it finds, so the k parts shrink
    alike. Any other part, or a single channel: its bounds stay where they are, so nothing in front of
    them may go. Both are tried on the cut network before anybody relies on them.
    """
    dims = dict(source.dims)
    ids = dims.get(dim)
    size, total = stop - start, source.shape[dim]
    if ids is None or size == total:
        return dims
    if size > 1 and total % size == 0 and start % size == 0:
        parts = ids.reshape(-1, size)
        step.labels.tie(parts, np.broadcast_to(parts[:1], parts.shape))
    else:
        step.freeze(ids[: stop if stop < total else start], _FIXED)
    dims[dim] = ids[start:stop]
    return dims
