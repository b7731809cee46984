"""Layer normalisation in a masked network: its statistics run over the channels that are kept.

A batch norm looks at every channel on its own, so zeros in the others change nothing. A layer norm takes mean and
variance over all of them; zeros would be counted, and the masked network would not be what the cut one is going to be.
So while a masked network runs, its layer norms see the kept channels alone, and answer 0 for the others (our decision).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Layer = Callable[..., torch.Tensor]


class KeptStatistics:
    """Hooks on a model, by which its layer norms take their statistics over some positions only.

    Attributes:
        kept: name of a layer norm's weight → int64 positions of its only dimension; a norm that is not named runs as
            it is.
    """

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}
        self._running: list[_OverKept] = []

    def attach(self, model: nn.Module) -> None:
        """Take effect in every forward pass of the model."""
        model.register_forward_pre_hook(self.enter)
        model.register_forward_hook(self.leave, always_call=True)

    def enter(self, model: nn.Module, inputs: Any) -> None:
        """Before forward."""
        mode = _OverKept({id(model.get_parameter(name)): positions for name, positions in self.kept.items()})
        self._running.append(mode)
        mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        """After forward, failed or not."""
        self._running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def detach(model: nn.Module) -> None:
    """Remove all such hooks, as from a copy."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), KeptStatistics)]:
            del hooks[key]
            model._forward_hooks_always_called.pop(key, None)


class _OverKept(TorchFunctionMode):
    def __init__(self, kept: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _NORMS:
            return _NORMS[func](self._kept, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layer_norm(
    kept: Mapping[int, torch.Tensor],
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> torch.Tensor:
    def norm(part: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None) -> torch.Tensor:
        return F.layer_norm(part, part.shape[part.dim() - len(normalized_shape) :], scale, shift, eps)

    return _over(kept, norm, input, weight, bias, -1)


def _rms_norm(
    kept: Mapping[int, torch.Tensor],
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    def norm(part: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None) -> torch.Tensor:
        return F.rms_norm(part, part.shape[part.dim() - len(normalized_shape) :], scale, eps)

    return _over(kept, norm, input, weight, None, -1)


def _group_norm(
    kept: Mapping[int, torch.Tensor],
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    def norm(part: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None) -> torch.Tensor:
        return F.group_norm(part, num_groups, scale, shift, eps)

    return _over(kept if num_groups == 1 else {}, norm, input, weight, bias, 1)


def _over(
    kept: Mapping[int, torch.Tensor],
    norm: Layer,
    source: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    dim: int,
) -> torch.Tensor:
    if id(weight) not in kept or weight is None:
        return norm(source, weight, bias)
    places = kept[id(weight)].to(source.device)
    inside = norm(source.index_select(dim, places), weight[places], None if bias is None else bias[places])
    return torch.zeros_like(source, dtype=inside.dtype).index_copy(dim, places, inside)


_NORMS: dict[Any, Layer] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
}
