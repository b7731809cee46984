"""Running a model without leaving a trace in it: evaluation mode, no gradients, random state restored."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from hwprune.errors import ModelError

Example = torch.Tensor | tuple[torch.Tensor, ...]


@contextmanager
def undisturbed(model: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, no gradients, fixed random state; everything as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    devices = {parameter.device.index or 0 for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def as_arguments(example: Example) -> tuple[torch.Tensor, ...]:
    """The positional arguments of ``forward``, copied so that a model may write into them.

    Raises:
        ModelError: not a tensor or a tuple of tensors.
    """
    arguments = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    if not arguments or not all(isinstance(argument, torch.Tensor) for argument in arguments):
        raise ModelError(
            f"the example input is {type(example).__name__}, not a tensor or a tuple of tensors",
            hint="give one tensor per positional argument of forward, batch first",
        )
    return tuple(argument.detach().clone() for argument in arguments)


def tensors_of(output: Any) -> list[torch.Tensor]:
    """Every tensor in a model's output, in order.

    Raises:
        ModelError: something in the output is of a type that cannot be looked into, or there is no tensor.
    """
    found = list(_tensors(output))
    if not found:
        raise ModelError(
            "the model's output contains no tensor", hint="return a tensor, tuple, list or dict of tensors"
        )
    return found


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    for leaf in _pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            for field in fields(leaf):
                yield from _tensors(getattr(leaf, field.name))
        elif leaf is not None and not isinstance(leaf, bool | int | float | complex | str | torch.dtype | torch.device):
            raise ModelError(
                f"the model's output contains a {type(leaf).__name__}, which cannot be looked into for tensors",
                hint="return a tensor, tuple, list, dict or dataclass of tensors",
            )


def outputs_of(model: nn.Module, example: Example, *, seed: int = 0) -> list[torch.Tensor]:
    """Every tensor the model returns for this input, in evaluation mode; the model is left as it was."""
    with undisturbed(model, seed=seed), warnings.catch_warnings():
        # An instance norm without parameters tells no tensor its size, so ``num_features`` of a cut one is out of
        # date; nothing depends on it, but torch warns.
        warnings.filterwarnings("ignore", message="input's size at dim=1 does not match num_features")
        return tensors_of(model(*as_arguments(example)))


def what_failed(model: nn.Module, error: BaseException) -> str:
    """The first line of an error in a model's forward, and the innermost module that it came from."""
    paths, place = {id(module): path for path, module in model.named_modules()}, ""
    trace = error.__traceback__
    while trace is not None:
        place = paths.get(id(trace.tb_frame.f_locals.get("self")), place)
        trace = trace.tb_next
    what = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    return f"{what} (in {place})" if place else what


def random_like(example: Example) -> tuple[torch.Tensor, ...]:
    """Inputs of the same shapes, types and spread; whole numbers stay as they are."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for tensor in as_arguments(example):
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            spread = tensor.std(correction=0) if tensor.numel() else tensor
            tensor = tensor.mean() + noise * (spread if spread > 0 else 1.0)
        result.append(tensor)
    return tuple(result)
