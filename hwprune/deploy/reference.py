"""The torch model as the reference that an exported engine is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import ModelError


def as_inputs(example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The arguments of ``forward``: one tensor stands for itself."""
    return (example,) if isinstance(example, Tensor) else tuple(example)


def on_device_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs, where the model's parameters are."""
    parameter = next(model.parameters(), None)
    return inputs if parameter is None else tuple(tensor.to(parameter.device) for tensor in inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; every module is in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def reference_outputs(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run the model once, in evaluation mode; it is left as it was.

    Args:
        model: any module whose outputs are tensors, or lists, tuples and dictionaries of them.
        example: the arguments of ``forward``.

    Returns:
        The output tensors, flattened in order, on the CPU.

    Raises:
        ModelError: ``forward`` fails on this input, or returns something that is not a tensor.
    """
    inputs = as_inputs(example)
    with evaluating(model):
        try:
            result = model(*on_device_of(model, inputs))
        except Exception as error:  # whatever a user's forward may raise
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            raise ModelError(
                f"the model's forward fails on input of shape {shapes}: {type(error).__name__}: {error}",
                hint="give the input shape the model was built for, batch first",
            ) from error
    return tuple(tensor.cpu() for tensor in _flat(result))


def _flat(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (list, tuple, Mapping)):
        for part in result.values() if isinstance(result, Mapping) else result:
            yield from _flat(part)
    else:
        raise ModelError(
            f"the model returns a {type(result).__name__}, which an engine cannot",
            hint="let forward return a tensor, or a tuple, list or dictionary of tensors",
        )
