"""Layer normalisation in a masked network: its statistics run over the channels that are kept.

A batch norm looks at every channel on its own, so zeros in the others change nothing. A layer norm takes mean and
variance over all of them; zeros would be counted, and the masked network would not be what the cut one is going to be.
So while a masked network runs, its layer norms see the kept channels alone and answer 0 for the others: our decision.

Layer norms of torch are known by their weight, wherever they are called. A norm that is written out is a module; it
runs on the kept channels, with the kept part of its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class KeptStatistics:
    """Hooks on a model, by which its layer norms take their statistics over some positions only.

    Args:
        written: a parameter of each module that is a norm written out → the dimension that it normalises over.

    Attributes:
        kept: name of a layer norm's weight → int64 positions of its only dimension; a norm that is not named runs as
            it is.
    """

    def __init__(self, written: Mapping[str, int]) -> None:
        self.written = written
        self.kept: dict[str, torch.Tensor] = {}
        self._running: list[_OverKept] = []

    def attach(self, model: nn.Module) -> None:
        """Take effect in every forward pass of the model."""
        model.register_forward_pre_hook(self.enter)
        model.register_forward_hook(self.leave, always_call=True)

    def enter(self, model: nn.Module, inputs: Any) -> None:
        """Before forward."""
        for name in self.written.keys() & self.kept.keys():
            module = model.get_submodule(name.rpartition(".")[0])
            module.forward = partial(_over_kept, module, self.kept[name], self.written[name])
        mode = _OverKept({id(model.get_parameter(name)): positions for name, positions in self.kept.items()})
        self._running.append(mode)
        mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        """After forward, failed or not."""
        for name in self.written.keys() & self.kept.keys():
            vars(model.get_submodule(name.rpartition(".")[0])).pop("forward", None)
        self._running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def detach(model: nn.Module) -> None:
    """Remove all such hooks, as from a copy."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), KeptStatistics)]:
            del hooks[key]
            model._forward_hooks_always_called.pop(key, None)


def _over_kept(module: nn.Module, places: torch.Tensor, dim: int, source: torch.Tensor) -> torch.Tensor:
    """What the module makes of some of its channels; zeros elsewhere."""
    places = places.to(source.device)
    whole = [(part, dict(part._parameters)) for part in module.modules()]
    try:
        for part, parameters in whole:
            part._parameters |= {key: one[places] for key, one in parameters.items() if one is not None}  # type: ignore
        inside: torch.Tensor = type(module).forward(module, source.index_select(dim, places))
    finally:
        for part, parameters in whole:
            part._parameters.update(parameters)
    return torch.zeros_like(source, dtype=inside.dtype).index_copy(dim, places, inside)


class _OverKept(TorchFunctionMode):
    def __init__(self, kept: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {**dict(zip(_ARGUMENTS.get(func, ()), args, strict=False)), **(kwargs or {})}
        places = self._kept.get(id(given.get("weight")))
        if func not in _ARGUMENTS or places is None or given.get("num_groups", 1) > 1:
            return func(*args, **(kwargs or {}))
        source, dim = given["input"], 1 if "num_groups" in given else -1
        places = places.to(source.device)
        part = {**given, "input": source.index_select(dim, places)}
        part |= {name: given[name][places] for name in ("weight", "bias") if given.get(name) is not None}
        if "normalized_shape" in given:
            part["normalized_shape"] = [len(places)]
        inside = func(**part)
        return torch.zeros_like(source, dtype=inside.dtype).index_copy(dim, places, inside)


_LAYER = ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable")
_RMS = ("input", "normalized_shape", "weight", "eps")
_GROUP = ("input", "num_groups", "weight", "bias", "eps", "cudnn_enabled")
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    F.layer_norm: _LAYER,
    torch.layer_norm: _LAYER,
    F.rms_norm: _RMS,
    torch.rms_norm: _RMS,
    F.group_norm: _GROUP,
    torch.group_norm: _GROUP,
}  # in order
