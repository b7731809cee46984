"""The torch model as the reference that an exported engine is held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import ModelError
from hwprune.network.forward import Example, call, leaves_of, mapped, shapes_of, tensors_of


def on_device_of(model: nn.Module, example: Example) -> Example:
    """The inputs, where the model's parameters are."""
    parameter = next(model.parameters(), None)
    return example if parameter is None else mapped(lambda tensor: tensor.to(parameter.device), example)


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


def reference_outputs(model: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """Run the model once, in evaluation mode; it is left as it was.

    Args:
        model: any module whose outputs are tensors, or lists, tuples, dictionaries and dataclasses of them.
        example: the arguments of ``forward``.

    Returns:
        The output tensors, flattened in order, on the CPU; what is None is left out.

    Raises:
        ModelError: ``forward`` fails on this input, or returns something else than tensors.
    """
    with evaluating(model):
        try:
            result = call(model, on_device_of(model, example))
        except Exception as error:  # whatever a user's forward may raise
            raise ModelError(
                f"the model's forward fails on input of shape {shapes_of(example)}: {type(error).__name__}: {error}",
                hint="give the input shape the model was built for, batch first",
            ) from error
    return tuple(tensor.cpu() for tensor in _tensors_alone(result))


@contextmanager
def returning_tensors(model: nn.Module) -> Iterator[None]:
    """The model returns a flat tuple of tensors inside, whatever it is that holds them: exporters know no other."""
    hook = model.register_forward_hook(lambda module, inputs, output: _tensors_alone(output))
    try:
        yield
    finally:
        hook.remove()


def _tensors_alone(output: Any) -> tuple[Tensor, ...]:
    others = sorted({type(leaf).__name__ for leaf in leaves_of(output) if not isinstance(leaf, Tensor)})
    if others:
        raise ModelError(
            f"the model returns a {', '.join(others)}, which an engine cannot",
            hint="let forward return a tensor, or a tuple, list, dictionary or dataclass of tensors and None",
        )
    return tuple(tensors_of(output))
