"""Example inputs: made up from what a user says of them, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.inputs import FLOATING, Input, read_inputs
from hwprune.network.forward import Example, mapped, tensors_in

Inputs = str | Sequence[int] | Example
"""What a user says of a model's inputs: text (:func:`hwprune.inputs.parse_inputs`), one shape, or an example itself."""


def described(inputs: Inputs) -> tuple[Input, ...]:
    """Shape, name and type of every input.

    Raises:
        InputError: the text is malformed, or a tensor has no batch.
    """
    if _is_said(inputs):
        return read_inputs(cast("str | Sequence[int]", inputs))
    example = cast(Example, inputs)
    names = example if isinstance(example, Mapping) else [None] * len(tensors_in(example))
    return tuple(
        Input(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in zip(names, tensors_in(example), strict=True)
    )


def example_for(model: nn.Module, inputs: Inputs, *, batch: int, seed: int = 0) -> Example:
    """An example input of a batch size.

    Args:
        model: floating point inputs without a type of their own get that of its parameters.
        inputs: text or a shape, whose first sizes give way to ``batch``; or tensors, of that batch or of 1, which is
            repeated.
        batch: samples.
        seed: of what is made up.

    Returns:
        A tensor for one input without a name, a tuple for several, a dictionary for inputs with names.

    Raises:
        InputError: the inputs are malformed.
    """
    if _is_said(inputs):
        return _random_example(model, described(inputs), batch, seed)

    def of_batch(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.shape[0] == batch else tensor.repeat(batch, *[1] * (tensor.dim() - 1))

    return mapped(of_batch, cast(Example, inputs))


def floating_type(model: nn.Module) -> torch.dtype:
    """The type of the model's first floating point parameter; float32 if it has none."""
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(types, torch.float32)


def _random_example(model: nn.Module, inputs: Sequence[Input], batch: int, seed: int) -> Example:
    """Normal values for floating point, whole numbers below their bound, coins for truth values.

    Raises:
        InputError: they do not fit into memory.
    """
    generator, default = torch.Generator().manual_seed(seed), floating_type(model)
    try:
        made = tuple(_random(one, (batch, *one.shape[1:]), default, generator) for one in inputs)
    except (RuntimeError, TypeError) as error:
        shapes = ", ".join(str((batch, *one.shape[1:])) for one in inputs)
        raise InputError(f"there is no room for an input of shape {shapes}", hint="give a smaller shape") from error
    names = [one.name for one in inputs if one.name is not None]
    if names:
        return dict(zip(names, made, strict=True))
    return made if len(made) > 1 else made[0]


def _random(one: Input, shape: tuple[int, ...], default: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    dtype = default if one.dtype is None else getattr(torch, one.dtype)
    if one.dtype is None or one.dtype in FLOATING:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, one.below, shape, generator=generator).to(dtype)


def _is_said(inputs: Inputs) -> bool:
    """Whether it is text or a shape, and no tensors."""
    return isinstance(inputs, Sequence) and all(isinstance(one, int | str) for one in inputs)
