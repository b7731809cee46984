"""Blocks switched off instead of removed: the branch runs, and what it gives is zero."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from hwprune.network.network import Block


def silence(model: nn.Module, block: Block) -> RemovableHandle:
    """Make the last module of a block return zeros, until the handle is removed.

    Its parameters still get gradients, all zero: training on several devices waits for the gradient of each.
    """
    return model.get_submodule(block.last).register_forward_hook(_zeros)


def _zeros(module: nn.Module, inputs: Any, output: Any) -> Any:
    return (output[0] * 0, *output[1:]) if isinstance(output, tuple | list) else output * 0


def unsilence(model: nn.Module) -> None:
    """Let every block of a model speak again, as of a copy."""
    for module in model.modules():
        for key in [key for key, hook in module._forward_hooks.items() if hook is _zeros]:
            del module._forward_hooks[key]
