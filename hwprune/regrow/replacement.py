"""Other modules in the place of some."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def replaced(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model, changed in place, with modules replaced under all of their names.

    Args:
        model: may itself be one of those to replace.
        new: module → what takes its place.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)
