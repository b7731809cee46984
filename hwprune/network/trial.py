"""Trying a trace out: cut every group at once, run the result, find the groups that do not survive it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hwprune.errors import SurgeryError
from hwprune.network.forward import Example, call, cloned, outputs_of, random_like, undisturbed
from hwprune.network.masking import masked
from hwprune.network.network import ChannelGroup, Network
from hwprune.network.recording import Deadline
from hwprune.network.surgery import copied, cut
from hwprune.network.verification import compare_outputs, tolerance_for, verify_cut

_ANSWERS = 0.01  # relative change of the output between two inputs that is enough to see errors


def failures(model: nn.Module, network: Network, example: Example, deadline: Deadline) -> dict[str, str]:
    """Group name → why cutting it breaks or changes the forward pass; groups that can be cut are not listed.

    A seeded random half of every cuttable group is cut out at once. If that fails, the groups are added
    one set after the other, sets that fail are halved: n culprits among g groups cost about n·log(g) runs.
    Of repeated blocks one culprit tells: its counterparts are tried together, and if that fails with the same words,
    numbers apart, so do they all.

    Raises:
        ModelError: time is up.
    """
    model = lively(model, example)
    reasons: dict[str, str] = {}
    accepted: list[ChannelGroup] = []
    pending: list[list[ChannelGroup]] = [list(network.cuttable)]
    while pending:
        chosen = pending.pop()
        if not chosen:
            continue
        deadline.check(f"trying to cut {chosen[0].name}")
        failure = _failure(model, network, [*accepted, *chosen], example)
        if failure is None:
            accepted += chosen
        elif len(chosen) == 1:
            reasons[chosen[0].name] = f"cutting it fails: {failure}"
            alike = [group for one in pending for group in one if _pattern(group) == _pattern(chosen[0])]
            if alike:
                pending = [[group for group in one if group not in alike] for one in pending]
                again = _failure(model, network, [*accepted, *alike], example)
                if again is not None and _in_words(again) == _in_words(failure):
                    reasons.update({group.name: f"cutting it fails: {again}" for group in alike})
                else:
                    pending.append(alike)
        else:
            half = len(chosen) // 2
            pending += [chosen[half:], chosen[:half]]
    if accepted:
        kept = _halves(accepted)
        verify_cut(model, cut(model, network.cuts(kept)), network, kept, example)
    return reasons


def _failure(model: nn.Module, network: Network, groups: Sequence[ChannelGroup], example: Example) -> str | None:
    """Why these groups cannot be cut together; None if they can."""
    kept = _halves(groups)
    smaller = cut(model, network.cuts(kept))
    try:
        compare_outputs(lambda: masked(model, network, kept), smaller, example, tolerance=tolerance_for(model))
    except SurgeryError as error:
        return error.message
    return None


def _in_words(failure: str) -> str:
    return re.sub(r"[\d.e+-]+", "#", failure)


def _pattern(group: ChannelGroup) -> tuple[object, ...]:
    """Equal for counterparts in repeated blocks: the same tensors but for the numbers in their names."""
    members = {(re.sub(r"\d+", "#", member.tensor), member.dim, member.role) for member in group.members}
    return group.channels, frozenset(members)


def _halves(groups: Sequence[ChannelGroup]) -> dict[str, list[int]]:
    """A random half of each group plus one, if it can be spared: an odd number fits no hard-coded size."""
    random = np.random.default_rng(0)
    kept = {}
    for group in groups:
        count = min(group.channels // 2 + 1, group.channels - 1)
        kept[group.name] = sorted(random.choice(group.channels, count, replace=False).tolist())
    return kept


def lively(model: nn.Module, example: Example) -> nn.Module:
    """A copy in which a wrong cut shows.

    Freshly initialised networks hide errors: a normalisation that starts at zero multiplies whatever is
    wrong by zero, channels with equal parameters can be exchanged unnoticed, and signals may die out long
    before the output. So parameters that are all equal get random values, and batch norms the statistics
    of the example; if the output then still hardly depends on the input, all parameters become random.

    Returns:
        The first of these copies whose output answers to its input, else the one that does so most.
    """
    best, most = copied(model), -1.0
    for everything in (False, True):
        candidate = copied(model)
        _disturb(candidate, everything)
        _adapt_statistics(candidate, example)
        response = _response(candidate, example)
        if response > _ANSWERS:
            return candidate
        if response > most:
            best, most = candidate, response
    return best


def _response(model: nn.Module, example: Example) -> float:
    """How much the outputs differ between two inputs, relative to the largest; -1 if they overflow."""
    worst = 0.0
    for one, other in zip(outputs_of(model, example), outputs_of(model, random_like(example)), strict=True):
        if not one.is_floating_point() or one.shape != other.shape or not one.numel():
            continue
        if not (one.isfinite().all() and other.isfinite().all()):
            return -1.0
        scale = max(one.abs().max().item(), other.abs().max().item())
        worst = max(worst, (one.double() - other.double()).abs().max().item() / scale if scale else 0.0)
    return worst


def _adapt_statistics(model: nn.Module, example: Example) -> None:
    """Give batch norms the statistics of the example, where it has more than one value per channel."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        with undisturbed(model):
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            call(model, cloned(example))
        finite = all(buffer.isfinite().all() for norm in norms for buffer in norm.buffers())
    except (RuntimeError, ValueError):  # one value per channel has no variance
        finite = False
    for norm, buffers, momentum in zip(norms, before, momenta, strict=True):
        norm.momentum = momentum
        if not finite:
            norm.load_state_dict(buffers, strict=False)


def _disturb(model: nn.Module, everything: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            level = parameter.flatten()[0].abs().item()
            if not everything and (parameter != parameter.flatten()[0]).any():
                continue
            noise = torch.rand(parameter.shape, generator=generator).to(parameter)  # from 0 to 1
            if parameter.dim() == 1 or (level and not everything):
                parameter.copy_((noise + 0.5) * (level or 0.5))
            else:
                parameter.copy_((noise - 0.5) * (12 / parameter[0].numel()) ** 0.5)
