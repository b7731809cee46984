"""Running a model without leaving a trace in it: evaluation mode, no gradients, random state restored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from hwprune.errors import ModelError

Example = torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]
"""What ``forward`` is called with: its one argument, all of them by position, or all of them by name."""


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


def tensors_in(example: Example) -> tuple[torch.Tensor, ...]:
    """The tensors of an example input, in order.

    Raises:
        ModelError: not a tensor, a tuple of tensors or a dictionary of tensors by name.
    """
    if isinstance(example, Mapping):
        found = tuple(example.values()) if all(isinstance(name, str) for name in example) else ()
    else:
        found = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    if not found or not all(isinstance(tensor, torch.Tensor) for tensor in found):
        raise ModelError(
            f"the example input is a {type(example).__name__}, not a tensor, or a tuple or dictionary of tensors",
            hint="give one tensor per argument of forward, batch first; in a dictionary by the argument's name",
        )
    return found


def mapped(function: Callable[[torch.Tensor], torch.Tensor], example: Example) -> Example:
    """An example input of the same form, of what ``function`` makes of its tensors.

    Raises:
        ModelError: as :func:`tensors_in`.
    """
    made = tuple(function(tensor) for tensor in tensors_in(example))
    if isinstance(example, Mapping):
        return dict(zip(example, made, strict=True))
    return made[0] if isinstance(example, torch.Tensor) else made


def call(model: Callable[..., Any], example: Example) -> Any:
    """Run ``forward``: on a tensor, on a tuple by position, on a dictionary by name."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(example) if isinstance(example, torch.Tensor) else model(*example)


def cloned(example: Example) -> Example:
    """A copy that a model may write into.

    Raises:
        ModelError: as :func:`tensors_in`.
    """
    return mapped(lambda tensor: tensor.detach().clone(), example)


def shapes_of(example: Example) -> str:
    """``(1, 3, 8, 8)`` or ``ids (1, 16), mask (1, 16)``; types where they are not float32."""
    names = example if isinstance(example, Mapping) else [""] * len(tensors_in(example))
    types = (str(tensor.dtype).removeprefix("torch.") for tensor in tensors_in(example))
    return ", ".join(
        f"{name} {tuple(tensor.shape)} {'' if dtype == 'float32' else dtype}".strip()
        for name, tensor, dtype in zip(names, tensors_in(example), types, strict=True)
    )


def tensors_of(output: Any) -> list[torch.Tensor]:
    """Every tensor in a model's output, in order.

    Raises:
        ModelError: something in the output is of a type that cannot be looked into, or there is no tensor.
    """
    found = [leaf for leaf in leaves_of(output) if isinstance(leaf, torch.Tensor)]
    if not found:
        raise ModelError(
            "the model's output contains no tensor", hint="return a tensor, tuple, list or dict of tensors"
        )
    return found


def leaves_of(output: Any) -> Iterator[Any]:
    """The tensors, numbers and words in a model's output, in order; what is None is left out.

    Raises:
        ModelError: something is of a type that cannot be looked into.
    """
    for leaf in _pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor | bool | int | float | complex | str | torch.dtype | torch.device):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            for field in fields(leaf):
                yield from leaves_of(getattr(leaf, field.name))
        elif leaf is not None:
            kind = type(leaf).__name__
            cache = "; a model of transformers without its cache: config.use_cache = False" if "Cache" in kind else ""
            raise ModelError(
                f"the model's output contains a {kind}, which cannot be looked into for tensors",
                hint=f"return a tensor, tuple, list, dict or dataclass of tensors{cache}",
            )


def outputs_of(model: nn.Module, example: Example, *, seed: int = 0) -> list[torch.Tensor]:
    """Every tensor the model returns for this input, in evaluation mode; the model is left as it was."""
    with undisturbed(model, seed=seed), warnings.catch_warnings():
        # An instance norm without parameters tells no tensor its size, so ``num_features`` of a cut one is out of
        # date; nothing depends on it, but torch warns.
        warnings.filterwarnings("ignore", message="input's size at dim=1 does not match num_features")
        return tensors_of(call(model, cloned(example)))


def what_failed(model: nn.Module, error: BaseException) -> str:
    """The first line of an error in a model's forward, and the innermost module that it came from."""
    paths, place = {id(module): path for path, module in model.named_modules()}, ""
    trace = error.__traceback__
    while trace is not None:
        place = paths.get(id(trace.tb_frame.f_locals.get("self")), place)
        trace = trace.tb_next
    what = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    return f"{what} (in {place})" if place else what


def half_types(model: nn.Module) -> set[torch.dtype]:
    """Types of half precision among a model's parameters."""
    return {parameter.dtype for parameter in model.parameters()} & {torch.float16, torch.bfloat16}


def varies(tensor: torch.Tensor) -> bool:
    """Whether :func:`random_like` gives other values for it."""
    return tensor.is_floating_point() and tensor.layout is torch.strided


def random_like(example: Example) -> Example:
    """Inputs of the same form, shapes, types and spread; whole numbers and sparse tensors stay as they are."""
    generator = torch.Generator().manual_seed(1)

    def another(tensor: torch.Tensor) -> torch.Tensor:
        if not varies(tensor):
            return tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        spread = tensor.std(correction=0) if tensor.numel() else tensor
        return tensor.mean() + noise * (spread if spread > 0 else 1.0)

    return mapped(another, cloned(example))
