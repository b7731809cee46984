"""Copies of a network with other numbers in it, in which a wrong cut shows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from hwprune.network.forward import Example, call, cloned, outputs_of, random_like, tensors_in, undisturbed, varies
from hwprune.network.surgery import Cuts, copied

ANSWERS = 0.01  # relative change of the output between two inputs that is enough to see errors
_NOTHING = 0.01  # what is no larger may hide what it is multiplied with


def disturbed(model: nn.Module, example: Example, *, everything: bool = False) -> nn.Module:
    """A copy in which a wrong cut shows, if its batch norms have the statistics of what they get.

    Freshly initialised networks hide errors: a normalisation that starts at zero multiplies whatever is wrong by zero
    (a layer scale by a millionth, a gate that is a buffer until a schedule opens it), and channels with equal
    parameters can be exchanged unnoticed. So parameters that are all equal, or next to nothing, get random values, and
    buffers that are next to nothing as well, if the model runs then.

    Args:
        model: left as it is.
        example: its input.
        everything: all parameters become random.
    """
    found = copied(model)
    _disturb(found.parameters(), everything)
    _open_gates(found, example)
    return found


def lively(model: nn.Module, example: Example, first: nn.Module) -> nn.Module:
    """The first :func:`disturbed` copy, without or with all parameters random, whose output depends on its input.

    Args:
        model: left as it is.
        example: its input.
        first: the copy without; batch norms get the statistics of the example, as in the other one.

    Returns:
        If neither output does, the copy in which it does most.
    """
    adapt_statistics(first, example)
    if (least := response(first, example)) > ANSWERS:
        return first
    second = disturbed(model, example, everything=True)
    adapt_statistics(second, example)
    most = response(second, example)
    return second if most > least else first if least > -1.0 else model


def _open_gates(model: nn.Module, example: Example) -> None:
    """Disturb buffers that are next to nothing, if the model still runs then."""
    gates = [
        buffer
        for module in model.modules()
        if not isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point() and buffer.layout is torch.strided and buffer.numel()
        if buffer.abs().max() <= _NOTHING
    ]
    held = [buffer.clone() for buffer in gates]
    _disturb(gates, False)
    try:
        runs = not gates or all(tensor.isfinite().all() for tensor in outputs_of(model, example))
    except Exception:  # whatever a forward may raise when it looks at them
        runs = False
    for buffer, values in zip(gates, held, strict=True) if not runs else ():
        buffer.copy_(values)


def response(model: nn.Module, example: Example) -> float:
    """How much the outputs differ between two inputs, relative to the largest.

    Returns:
        -1 if they overflow; infinity if there is no second input, as of whole numbers there is none.
    """
    if not any(varies(tensor) for tensor in tensors_in(example)):
        return math.inf
    worst = 0.0
    for one, other in zip(outputs_of(model, example), outputs_of(model, random_like(example)), strict=True):
        if one.is_complex() and other.is_complex():
            one, other = torch.view_as_real(one), torch.view_as_real(other)
        if not one.is_floating_point() or one.shape != other.shape or not one.numel():
            continue
        if not (one.isfinite().all() and other.isfinite().all()):
            return -1.0
        scale = max(one.abs().max().item(), other.abs().max().item())
        worst = max(worst, (one.double() - other.double()).abs().max().item() / scale if scale else 0.0)
    return worst


def adapt_statistics(model: nn.Module, example: Example) -> None:
    """Give batch norms the statistics of the example, where it has more than one value per channel."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        with undisturbed(model):
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            call(model, cloned(example))
        finite = all(buffer.isfinite().all() for norm in norms for buffer in norm.buffers())
    except Exception:  # one value per channel has no variance; a wrong cut may raise whatever it likes
        finite = False
    for norm, buffers, momentum in zip(norms, before, momenta, strict=True):
        norm.momentum = momentum
        if not finite:
            norm.load_state_dict(buffers, strict=False)


def take_statistics(model: nn.Module, smaller: nn.Module, cuts: Cuts) -> None:
    """Give the batch norms of a model the statistics of those that were cut out of it, where channels are left."""
    dense = dict(model.named_modules())
    for path, norm in smaller.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for name in ("running_mean", "running_var"):
                found, held = getattr(norm, name), getattr(dense[path], name)
                if found is not None:
                    places = cuts.get(f"{path}.{name}", {}).get(0, range(len(held)))
                    held[torch.as_tensor(places, device=held.device)] = found


def _disturb(tensors: Iterable[torch.Tensor], everything: bool) -> None:
    """Random values for those that are all equal or next to nothing, neither too small nor too large to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tensors:
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            first = parameter.flatten()[0]
            if not everything and (parameter != first).any() and parameter.abs().max() > _NOTHING:
                continue
            noise = torch.rand(parameter.shape, generator=generator).to(parameter)  # from 0 to 1
            if parameter.dim() < 2 or (first and (parameter == first).all() and not everything):
                parameter.copy_((noise + 0.5) * (min(max(first.abs().item(), 0.1), 1.0) if first else 0.5))
            else:
                parameter.copy_((noise - 0.5) * (12 / parameter[0].numel()) ** 0.5)
