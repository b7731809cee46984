"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

from hwprune.network.rules.step import Dims, Step


def elementwise(step: Step) -> list[Dims]:
    """Tensors are aligned from the last dimension; what meets is tied."""
    shape = step.shapes[0] if step.shapes else ()
    dims: Dims = {}
    for dim in range(len(shape)):
        parts = []
        for tensor in step.tensors:
            own = dim - len(shape) + len(tensor.shape)
            if own >= 0:
                parts.append((tensor, own))
        ids = step.combine(parts, shape[dim])
        if ids is not None:
            dims[dim] = ids
    return [dims if out == shape else {} for out in step.shapes]


def same(step: Step) -> list[Dims]:
    """A copy, a cast, or a new tensor of the same shape."""
    return [dict(step.source.dims)]
