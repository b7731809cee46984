"""Taking off what a model was wrapped in to compile or to train it: what is cut is the model inside."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hwprune.errors import ModelError, ModelWarning

_WRAPPERS = (  # where the class is, its name, the attribute that holds the model
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("lightning_fabric.wrappers", "_FabricModule", "module"),
    ("lightning.fabric.wrappers", "_FabricModule", "module"),
)


def unwrapped(model: nn.Module, say: Callable[[str], None] | None = None) -> nn.Module:
    """The model inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and Lightning Fabric's wrapper.

    Args:
        model: returned as it is if it is none of these.
        say: told what was taken off; without it, a :class:`~hwprune.errors.ModelWarning` tells.

    Raises:
        ModelError: a compiled function stands in for a module's ``forward``, a module is TorchScript, or has parameters
            without a shape yet.
    """
    taken = []
    while (inside := _inside(model)) is not None:
        taken.append(type(model).__name__)
        model = inside
    if taken:
        text = f"the {type(model).__name__} inside {', '.join(taken)} is what is read and cut; names are as in it"
        if say is None:
            warnings.warn(text, ModelWarning, stacklevel=3)
        else:
            say(text)
    _check(model)
    return model


def _check(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{path or 'the model'} is TorchScript, which cannot be looked into",
                hint="give the Python module that it was made from",
            )
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise ModelError(
                f"{path or 'the model'} has parameters without a shape until its forward runs for the first time",
                hint="run the model on an example first",
            )
        if _inside(module) is None and hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable"):
            raise ModelError(
                f"forward of {path or type(module).__name__} was replaced by a compiled one, which a copy of the model "
                "would call on this model's own weights",
                hint="compile with model.compile() or torch.compile(model) instead of model.forward = torch.compile(…)",
            )


def _inside(model: nn.Module) -> nn.Module | None:
    for where, name, attribute in _WRAPPERS:
        wrapper = getattr(sys.modules.get(where), name, None)  # there is none of a class that nobody has imported
        if wrapper is not None and isinstance(model, wrapper):
            inside = getattr(model, attribute)
            assert isinstance(inside, nn.Module)
            return inside
    return None
