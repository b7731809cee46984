"""What modules run in training only, such as auxiliary heads: found, and run so that it can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hwprune.network.forward import Example, call, cloned, outputs_of, tensors_of, undisturbed

Paths = frozenset[str]


def candidates(model: nn.Module) -> list[Paths]:
    """Modules that may run something else in training: those that contain others, but for batch norms.

    Returns:
        All of these; then those without buffers, to be tried where the model does not run so. What has buffers may be a
        norm that takes its statistics from the batch, and refuse a batch of one.
    """
    inner = {
        path: module
        for path, module in model.named_modules()
        if next(module.children(), None) is not None and not isinstance(module, nn.modules.batchnorm._NormBase)
    }
    found = [frozenset(inner), frozenset(path for path, module in inner.items() if not module._buffers)]
    return found[:1] if found[0] == found[1] else found


@contextmanager
def training(model: nn.Module, paths: Set[str]) -> Iterator[None]:
    """These modules in training mode, all others in evaluation mode, and nothing dropped; buffers are kept.

    So ``if self.training`` is answered as in training, but norms keep their statistics. To be used inside
    :func:`~hwprune.network.forward.undisturbed`, which restores the modes.
    """
    held = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    owners = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    for path, module in model.named_modules():
        module.training = path in paths
    try:
        with _NothingDropped():
            yield
    finally:
        for module, buffers in owners:
            module._buffers.update(buffers)
        for buffer, version, values in held:
            if buffer._version != version:
                buffer.copy_(values)


def training_outputs(model: nn.Module, example: Example, paths: Set[str], *, seed: int = 0) -> list[torch.Tensor]:
    """Every tensor that the model returns with these modules in training mode; the model is left as it was."""
    with undisturbed(model, seed=seed), training(model, paths):
        return tensors_of(call(model, cloned(example)))


def is_repeatable(model: nn.Module, example: Example, paths: Set[str]) -> bool:
    """Whether what runs in training draws no random numbers, so that its values can be compared."""
    return _same(*(training_outputs(model, example, paths, seed=seed) for seed in range(2)))


def comparable(model: nn.Module, example: Example) -> Paths | None:
    """The modules that, in training mode, make the model return something else, the same every time; None if none."""
    for paths in candidates(model):
        try:
            found = training_outputs(model, example, paths)
        except Exception:  # in training, it may want targets as well
            continue
        if not _same(found, outputs_of(model, example)) and is_repeatable(model, example, paths):
            return paths
        return None
    return None


def _same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in zip(one, other, strict=True)
    )


class _NothingDropped(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(args)
        name, place, nothing = _DROPPING.get(func, ("", len(args), None))
        named = {**(kwargs or {}), name: nothing} if name and place >= len(args) else kwargs or {}
        given[place : place + 1] = [nothing] * (place < len(args))
        return func(*given, **named)


_DROPPING: dict[Any, tuple[str, int, Any]] = {  # the argument, and its place, by which they drop; what it is to be
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), ("training", 2, False)),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), ("training", 2, False)),
    F.scaled_dot_product_attention: ("dropout_p", 4, 0.0),
}
