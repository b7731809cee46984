"""A batch that an exported graph leaves open: the first dimension of every input and output, under one name."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor, nn

from hwprune.errors import InputError, ModelError
from hwprune.network.forward import Example, mapped, tensors_in

BATCH = "batch"
_HINT = "leave --dynamic-batch out"


def resized(example: Example, samples: int) -> Example:
    """The first sample of an example, then the same with its last dimension rolled, for more samples.

    Raises:
        InputError: an input has no batch dimension, or the inputs' batches differ.
    """
    sizes = {tuple(tensor.shape[:1]) for tensor in tensors_in(example)}
    if len(sizes) != 1 or () in sizes:
        raise InputError(f"the model's inputs have no batch in common, their first sizes are {sizes}", hint=_HINT)

    def grown(tensor: Tensor) -> Tensor:
        first = tensor[:1]
        return torch.cat([first.roll(shift, -1) if tensor.dim() > 1 else first for shift in range(samples)])

    return mapped(grown, example)


def open_shapes(model: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> Any:
    """What ``torch.export`` is told, that it may take any batch."""
    collection: Any = torch.export.ShapesCollection
    batch, shapes = torch.export.Dim(BATCH), collection()
    for tensor in (*positional, *named.values()):
        shapes[tensor] = {0: batch}
    return shapes.dynamic_shapes(model, positional, named)


def check_open(graph: onnx.GraphProto) -> None:
    """Refuse a graph that does not have the same open batch in all that goes in and comes out.

    Raises:
        ModelError: says where.
    """
    for port in (*graph.input, *graph.output):
        dims = port.type.tensor_type.shape.dim
        sizes = [dim.dim_param or dim.dim_value for dim in dims]
        if sizes[:1] != [BATCH] or BATCH in sizes[1:] or any(isinstance(size, str) for size in sizes[1:]):
            raise ModelError(
                f"{port.name!r} has shape {sizes} where the batch is left open: its first size alone must be open",
                hint=f"the model mixes its samples, or has no batch: {_HINT}",
            )
