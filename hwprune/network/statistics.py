"""Layer normalisation in a masked network: its statistics run over the channels that are kept.

A batch norm looks at every channel on its own, so zeros in the others change nothing. A layer norm takes mean and
variance over all of them; zeros would be counted, and the masked network would not be what the cut one is going to be.
So while a masked network runs, its layer norms see the kept channels alone and answer 0 for the others: our decision.

Layer norms of torch are known by their weight, wherever they are called. A norm that is written out is a module; it
runs on the kept channels, with the kept part of its parameters. Both also hold where a part of the network is computed
again in the backward pass, outside of its forward; there, a norm of torch is known only if its module is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree, checkpoint

from hwprune.errors import ModelError

Kept = dict[str, torch.Tensor]


class KeptStatistics:
    """On a model, by which its layer norms take their statistics over some positions only.

    Args:
        norms: weights of layer norms.
        written: a parameter of each module that is a norm written out → the dimension that it normalises over.

    Attributes:
        names: of all these weights and parameters.
        kept: one of these names → int64 positions of its only dimension; a norm that is not named runs
            as it is.
    """

    def __init__(self, norms: Iterable[str], written: Mapping[str, int]) -> None:
        self.written, self.names = written, (*norms, *written)
        self.kept: Kept = {}
        self._running: list[_OverKept] = []

    def attach(self, model: nn.Module) -> None:
        """Take effect in every forward pass of the model, and of the modules that hold its norms."""
        for name in self.names:
            path = name.rpartition(".")[0]
            module = model.get_submodule(path)
            if name in self.written:
                module.forward = partial(_written, module.forward, self.kept, module, name, self.written[name])
            elif path:
                module.forward = partial(_by_weight, module.forward, self.kept, module, name)
        model.register_forward_pre_hook(self.enter)
        model.register_forward_hook(self.leave, always_call=True)

    def enter(self, model: nn.Module, inputs: Any) -> None:
        """Before forward."""
        kept = {id(attrgetter(name)(model)): positions for name, positions in self.kept.items()}
        mode = _OverKept(kept, lasting=not torch.is_grad_enabled())
        self._running.append(mode)
        mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        """After forward, failed or not."""
        self._running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def detach(model: nn.Module) -> None:
    """Remove all of this, as from a copy."""
    for module in model.modules():
        while isinstance(forward := vars(module).get("forward"), partial) and forward.func in (_written, _by_weight):
            module.forward = forward.args[0]
            if getattr(module.forward, "__func__", None) is type(module).forward:
                del module.forward
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), KeptStatistics)]:
            del hooks[key]
            model._forward_hooks_always_called.pop(key, None)


def _by_weight(
    forward: Callable[..., Any], kept: Kept, module: nn.Module, name: str, /, *args: Any, **named: Any
) -> Any:
    """A module that holds the weight of a layer norm."""
    if name not in kept:
        return forward(*args, **named)
    with _OverKept({id(getattr(module, name.rpartition(".")[2])): kept[name]}):
        return forward(*args, **named)


def _written(
    forward: Callable[..., Any],
    kept: Kept,
    module: nn.Module,
    name: str,
    dim: int,
    /,
    *args: Any,
    **named: Any,
) -> Any:
    """What a norm that is written out makes of some of its channels; zeros elsewhere."""
    if name not in kept:
        return forward(*args, **named)
    (source,) = (one for one in _pytree.tree_leaves((args, named)) if isinstance(one, torch.Tensor))  # as it was traced
    places = kept[name].to(source.device)
    args, named = _pytree.tree_map_only(torch.Tensor, lambda one: one.index_select(dim, places), (args, named))
    whole = [(part, dict(part._parameters)) for part in module.modules()]
    try:
        for part, parameters in whole:
            part._parameters |= {key: one[places] for key, one in parameters.items() if one is not None}  # type: ignore
        inside: torch.Tensor = forward(*args, **named)
    finally:
        for part, parameters in whole:
            part._parameters.update(parameters)
    return torch.zeros_like(source, dtype=inside.dtype).index_copy(dim, places, inside)


class _OverKept(TorchFunctionMode):
    def __init__(self, kept: Mapping[int, torch.Tensor], *, lasting: bool = True) -> None:
        super().__init__()
        self._kept, self._lasting = kept, lasting

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {**dict(zip(_ARGUMENTS.get(func, ()), args, strict=False)), **(kwargs or {})}
        places = self._kept.get(id(given.get("weight")))
        if func not in _ARGUMENTS or places is None or given.get("num_groups", 1) > 1:
            return func(*args, **(kwargs or {}))
        if not self._lasting and _is_computed_again():
            raise ModelError(
                "a layer norm of a masked network runs inside torch.utils.checkpoint, but outside of the module that "
                "has its weight: computed again in the backward pass, it would not know which channels are kept",
                hint="let forward call the norm's module, or do not checkpoint this part of the network",
            )
        source, dim = given["input"], 1 if "num_groups" in given else -1
        places = places.to(source.device)
        part = {**given, "input": source.index_select(dim, places)}
        part |= {name: given[name][places] for name in ("weight", "bias") if given.get(name) is not None}
        if "normalized_shape" in given:
            part["normalized_shape"] = [len(places)]
        inside = func(**part)
        return torch.zeros_like(source, dtype=inside.dtype).index_copy(dim, places, inside)


def _is_computed_again() -> bool:
    """Whether this runs inside a checkpoint, of either kind."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename != checkpoint.__file__:
        frame = frame.f_back
    return frame is not None


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
