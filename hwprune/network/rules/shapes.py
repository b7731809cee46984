"""Views: operators that only rearrange dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwprune.network.labels import Ids, Labelled
from hwprune.network.rules.step import Dims, Step, unknown


def view(step: Step) -> list[Dims]:
    """``view``/``reshape``: dimensions are merged and split; identities follow position by position."""
    source, shape = step.source, step.shapes[0]
    sizes: Sequence[int] | None = step.arguments.get("size", step.arguments.get("shape"))
    if sizes is None or 0 in source.shape:  # a view as another dtype
        return unknown(step)
    inferred = list(sizes).index(-1) if -1 in sizes else None
    dims: Dims = {}
    for before, after in _blocks(source.shape, shape):
        dims.update(_through(step, source, before, after, inferred))
    return [dims]


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal volume into the smallest runs of dimensions of equal volume."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        ins, outs, p, q = [i], [j], before[i], after[j]
        i, j = i + 1, j + 1
        while p != q:
            if p < q:
                p, i = p * before[i], i + 1
                ins.append(i - 1)
            else:
                q, j = q * after[j], j + 1
                outs.append(j - 1)
        blocks.append((ins, outs))
    if blocks:  # dimensions of size 1 at the end
        blocks[-1][0].extend(range(i, len(before)))
        blocks[-1][1].extend(range(j, len(after)))
    return blocks


def _through(step: Step, source: Labelled, before: list[int], after: list[int], inferred: int | None) -> Dims:
    labelled = [dim for dim in before if dim in source.dims]
    wide = [dim for dim in labelled if source.shape[dim] > 1] or labelled
    if not labelled:
        return {}
    if len(wide) > 1:
        step.freeze_dims(source, labelled, "merged with another dimension that varies")
        return {}
    step.freeze_dims(source, set(labelled) - set(wide), "merged with another dimension that varies")
    ids = source.dims[wide[0]]
    sizes = [ids.size if dim == wide[0] else 1 for dim in before]
    table = np.broadcast_to(ids.reshape(sizes), [source.shape[dim] for dim in before])
    table = table.reshape([step.shapes[0][dim] for dim in after])
    return _settle(step, table, after, inferred)


def _settle(step: Step, table: Ids, after: list[int], inferred: int | None) -> Dims:
    """Which output dimension carries the channels when ``table`` holds the id of every position."""
    varying = [axis for axis in range(table.ndim) if (table != table.take([0], axis)).any()]
    if not varying:  # a single channel
        if table.size == 1 and after:
            return {after[0]: table.reshape(1)}
        step.freeze(table, "a single channel is merged into another dimension")
        return {}
    # A dimension that is split stays rectangular only if whole rows or whole columns go. The size that forward
    # infers (-1) tells which; without one, the code is taken to read the leading size and compute the last. Where that
    # leads nowhere (the size of attention heads), tracing asks for the other one (the number of heads).
    # Verification cuts and runs the network, so a wrong assumption ends as a frozen group, not a wrong network.
    kept = varying[-1]
    if inferred in [after[axis] for axis in varying]:
        kept = after.index(inferred) if inferred is not None else kept
    if len(varying) > 1:
        step.splits.append(table)
        if step.part:
            others = [axis for axis in varying if axis != kept]
            kept = others[-1] if step.part == 1 else others[0]
    others = [axis for axis in range(table.ndim) if axis != kept]
    first = table[tuple(slice(0, 1) if axis in others else slice(None) for axis in range(table.ndim))]
    if len(varying) > 1:
        step.labels.tie(table, np.broadcast_to(first, table.shape))
    return {after[kept]: first.reshape(-1)}


def permute(step: Step) -> list[Dims]:
    """``permute``, ``transpose``, ``t``, ``movedim``-like: dimensions change places."""
    source = step.source
    rank = len(source.shape)
    order = list(range(rank))
    if "dims" in step.arguments:
        order = [dim % rank for dim in step["dims"]]
    elif "dim0" in step.arguments:
        first, second = step.dim("dim0"), step.dim("dim1")
        order[first], order[second] = order[second], order[first]
    else:
        order.reverse()
    return [{new: source.dims[old] for new, old in enumerate(order) if old in source.dims}]


def unsqueeze(step: Step) -> list[Dims]:
    """A dimension of size 1 is inserted."""
    new = step["dim"] % len(step.shapes[0])
    return [{dim + (dim >= new): ids for dim, ids in step.source.dims.items()}]


def squeeze(step: Step) -> list[Dims]:
    """Dimensions of size 1 are dropped; of others that could be, one channel is not enough."""
    source = step.source
    rank = len(source.shape)
    given = step.arguments.get("dim", range(rank))
    named = [given] if isinstance(given, int) else list(given)
    dropped = {dim % rank for dim in named if source.shape[dim % rank] == 1} if rank else set()
    step.labels.squeezed += [source.dims[dim % rank] for dim in named if dim % rank in source.dims.keys() - dropped]
    step.freeze_dims(source, dropped, "a single channel is squeezed away")
    kept = [dim for dim in range(rank) if dim not in dropped]
    return [{new: source.dims[old] for new, old in enumerate(kept) if old in source.dims}]


def expand(step: Step) -> list[Dims]:
    """Dimensions of size 1 are repeated; new ones may appear in front."""
    source, shape = step.source, step.shapes[0]
    added = len(shape) - len(source.shape)
    dims: Dims = {}
    for dim, ids in source.dims.items():
        if shape[dim + added] == source.shape[dim]:
            dims[dim + added] = ids
        else:
            step.freeze(ids, "one channel is spread over several")
    return [dims]


def repeat(step: Step) -> list[Dims]:
    """``repeat``: the whole tensor is tiled."""
    source, shape = step.source, step.shapes[0]
    added = len(shape) - len(source.shape)
    return [{dim + added: np.tile(ids, shape[dim + added] // ids.size) for dim, ids in source.dims.items()}]


def flip(step: Step) -> list[Dims]:
    """Dimensions are reversed."""
    rank = len(step.source.shape)
    turned = {dim % rank for dim in step["dims"]}
    return [{dim: ids[::-1] if dim in turned else ids for dim, ids in step.source.dims.items()}]


def as_strided(step: Step) -> list[Dims]:
    """``as_strided``: what only says in which order the same dimensions lie in memory."""
    shape, source = step.shapes[0], step.source
    wide = [dim for dim, size in enumerate(shape) if size > 1]
    contiguous = [math.prod(shape[dim + 1 :]) for dim in wide]
    if shape != source.shape or [step["stride"][dim] for dim in wide] != contiguous or step["storage_offset"]:
        return unknown(step)
    return [dict(source.dims)]


def unfold(step: Step) -> list[Dims]:
    """``Tensor.unfold``: windows along one dimension, appended as a new last one."""
    dim = step.dim("dimension")
    step.freeze_dims(step.source, [dim], "windows slide along the channels")
    return [{key: ids for key, ids in step.source.dims.items() if key != dim}]
