"""Operators that multiply by a weight: convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwprune.network.labels import Ids, Labelled
from hwprune.network.rules.step import Dims, Step, unknown


def convolution(step: Step) -> list[Dims]:
    """Any convolution: dimension 1 of the input meets the weight, the weight's filters come out."""
    source: Labelled = step["input"]
    weight: Labelled = step["weight"]
    if not weight.constant:
        return unknown(step)
    step.freeze_dims(source, set(source.dims) - {0, 1}, "a convolution slides along this dimension")
    reads, makes = (0, 1) if step["transposed"] else (1, 0)
    if step["groups"] == 1:
        step.contract((source, 1), (weight, reads))
        _mark(step, weight.dims.get(reads), "in")
        output = weight.dims.get(makes)
    else:
        output = _grouped(step, source, weight)
    _mark(step, output, "out")
    output = _with_bias(step, output, step["bias"], step.shapes[0][1])
    kept = {0: source.dims[0]} if 0 in source.dims else {}
    return [kept if output is None else {**kept, 1: output}]


def _grouped(step: Step, source: Labelled, weight: Labelled) -> Ids | None:
    """Input, filters and output of one convolution group go together, group by group."""
    groups: int = step["groups"]
    filters = weight.dims.get(0)
    inputs = source.dims.get(1)
    if filters is None or inputs is None:
        step.contract((source, 1), (weight, 0))
        return None if step["transposed"] else filters
    by_group = filters.reshape(groups, -1)
    first = by_group[:, :1]
    step.labels.tie(by_group, np.broadcast_to(first, by_group.shape))
    by_group = inputs.reshape(groups, -1)
    step.labels.tie(by_group, np.broadcast_to(first, by_group.shape))
    if step["transposed"]:
        return np.repeat(first.ravel(), step.shapes[0][1] // groups)
    return filters


def _with_bias(step: Step, output: Ids | None, bias: Labelled | None, size: int) -> Ids | None:
    if bias is None:
        return output
    made = Labelled((size,), {} if output is None else {0: output}, origin=f"the result of {step.call.place}")
    _mark(step, bias.dims.get(len(bias.shape) - 1), "out")
    return step.combine([(made, 0), (bias, len(bias.shape) - 1)], size)


def _mark(step: Step, ids: Ids | None, role: Any) -> None:
    if ids is not None:
        step.labels.mark(ids, role)


def product(step: Step) -> list[Dims]:
    """``mm``, ``bmm``, ``matmul`` of two matrices or stacks of them."""
    first, second = step.tensors[:2]
    return [_product(step, first, second)]


def product_plus(step: Step) -> list[Dims]:
    """``addmm`` and ``baddbmm``: a product to which a bias is added."""
    bias, first, second = step.tensors[:3]
    dims = _product(step, first, second)
    shape = step.shapes[0]
    output = _with_bias(step, dims.get(len(shape) - 1), bias, shape[-1])
    dims.pop(len(shape) - 1, None)
    if len(bias.shape) > 1:
        step.freeze_dims(bias, range(len(bias.shape) - 1), "a bias that varies along another dimension")
    return [dims if output is None else {**dims, len(shape) - 1: output}]


def linear(step: Step) -> list[Dims]:
    """``linear``: the last dimension of the input meets dimension 1 of the weight."""
    source: Labelled = step["input"]
    weight: Labelled = step["weight"]
    last = len(source.shape) - 1
    if not weight.constant or len(weight.shape) != 2:
        return unknown(step)
    step.contract((source, last), (weight, 1))
    _mark(step, weight.dims.get(1), "in")
    _mark(step, weight.dims.get(0), "out")
    output = _with_bias(step, weight.dims.get(0), step["bias"], step.shapes[0][-1])
    kept = {dim: ids for dim, ids in source.dims.items() if dim != last}
    return [kept if output is None else {**kept, last: output}]


def attention(step: Step) -> list[Dims]:
    """Scaled dot-product attention over (…, heads, tokens, head size): heads go alike, and the head size of values."""
    query, key, value = (step[name] for name in ("query", "key", "value"))
    mask: Labelled | None = step.arguments.get("attn_mask", step.arguments.get("attn_bias"))
    shape = step.shapes[0]
    rank = len(shape)
    for tensor in (query, key, value):
        step.freeze_dims(tensor, [rank - 2], "attention runs along this dimension")
    step.multiply((query, rank - 1), (key, len(key.shape) - 1))
    step.labels.multiplied += value.dims.values()
    dims: Dims = {} if rank - 1 not in value.dims else {rank - 1: value.dims[rank - 1]}
    parts = [query, key, value]
    if mask is not None:
        step.freeze_dims(mask, [len(mask.shape) - 2, len(mask.shape) - 1], "attention runs along this dimension")
        parts.append(mask)
    for dim in range(rank - 2):
        aligned = [(tensor, dim - rank + len(tensor.shape)) for tensor in parts]
        parallel = [(tensor, own) for tensor, own in aligned if tensor is query or (own >= 0 and tensor.shape[own] > 1)]
        ids = step.combine(parallel, shape[dim])
        if ids is not None:
            dims[dim] = ids
    return [dims]


def embedding(step: Step) -> list[Dims]:
    """``embedding``: rows of the weight are looked up, its columns come out as channels."""
    weight: Labelled = step["weight"]
    step.freeze_dims(weight, [0], "rows of an embedding are looked up by position")
    step.freeze_dims(step["indices"], step["indices"].dims, "an index has no channels")
    ids = weight.dims.get(1)
    _mark(step, ids, "out")
    return [{} if ids is None else {len(step.shapes[0]) - 1: ids}]


def _product(step: Step, first: Labelled, second: Labelled) -> Dims:
    if min(len(first.shape), len(second.shape)) < 2:
        return (unknown(step) or [{}])[0]
    rows, inner = len(first.shape) - 2, len(first.shape) - 1
    outer, columns = len(second.shape) - 2, len(second.shape) - 1
    if first.constant or second.constant:
        step.contract((first, inner), (second, outer))
        weight, reads, makes = (second, outer, columns) if second.constant else (first, inner, rows)
        if second.constant and first.constant and rows in first.dims:  # a weight in two factors; the first makes them
            _mark(step, first.dims.get(inner), "out")
        _mark(step, weight.dims.get(reads), "in")
        _mark(step, weight.dims.get(makes), "out")
    else:
        step.multiply((first, inner), (second, outer))
    return _product_dims(step, first, second)


def _product_dims(step: Step, first: Labelled, second: Labelled) -> Dims:
    shape = step.shapes[0]
    size = len(shape)
    dims: Dims = {}
    if (ids := first.dims.get(len(first.shape) - 2)) is not None:
        dims[size - 2] = ids
    if (ids := second.dims.get(len(second.shape) - 1)) is not None:
        dims[size - 1] = ids
    for dim in range(size - 2):
        parts = [
            (tensor, dim - size + len(tensor.shape))
            for tensor in (first, second)
            if dim - size + len(tensor.shape) >= 0
        ]
        if (ids := step.combine(parts, shape[dim])) is not None:
            dims[dim] = ids
    return dims
