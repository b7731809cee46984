"""Trying a trace out: cut every group at once, run the result, find the groups that do not survive it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hwprune.errors import SurgeryError
from hwprune.network.attention import make_resizable
from hwprune.network.branches import is_repeatable, training_outputs
from hwprune.network.culprits import Culprits
from hwprune.network.deadline import Deadline
from hwprune.network.difference import Run
from hwprune.network.forward import (
    Example,
    call,
    cloned,
    mapped,
    outputs_of,
    random_like,
    undisturbed,
)
from hwprune.network.masking import masked
from hwprune.network.network import Block, ChannelGroup, Network
from hwprune.network.surgery import Cuts, copied, cut, resize
from hwprune.network.verification import check_shapes, compare_outputs, forward_failed, tolerance_for

Kept = dict[str, list[int]]

_ANSWERS = 0.01  # relative change of the output between two inputs that is enough to see errors
_NOTHING = 0.01  # what is no larger may hide what it is multiplied with


class Trial:
    """Cutting groups out of a model, to see which of them do not survive it.

    Args:
        model: left as it is.
        example: its input.
        deadline: when to give up.
        trained: paths of modules of which what they run in training has to survive, too.
    """

    def __init__(
        self, model: nn.Module, example: Example, deadline: Deadline, *, trained: Set[str] = frozenset()
    ) -> None:
        self.model, self.example, self.deadline, self.trained = model, example, deadline, trained
        self._needed: dict[str, bool] = {}  # kind of attribute → whether another value changes any shape
        self._tried: dict[frozenset[tuple[str, int, int]], str | None] = {}  # sizes that are left → why they misfit

    def needless(self, network: Network) -> set[str]:
        """Attributes that hold as many as a group has channels by chance: with another value, every shape stays.

        What only numbers follow from has to stay as well, for the masked network computes with what it always was.
        """
        kinds: dict[str, set[str]] = {}
        for member in (member for group in network.cuttable for member in group.members if member.role == "size"):
            kinds.setdefault(re.sub(r"\d+", "#", member.tensor), set()).add(member.tensor)
        if unknown := kinds.keys() - self._needed.keys():
            shaped, wanted = self._shaped
            if values := isinstance(wanted, Exception):
                shaped, wanted = self._lively, self._shapes(self._lively, values=True)
            tensors = [] if values else [*shaped.parameters(), *shaped.buffers()]  # need no copies
            for kind in sorted(unknown):
                other = copied(shaped, {id(one): one for one in tensors})
                make_resizable(other)
                for name in kinds[kind]:
                    resize(other, name, 101)  # no width is a multiple of it
                self._needed[kind] = self._shapes(other, values=values) != wanted
        return {name for kind, names in kinds.items() if not self._needed[kind] for name in names}

    def survives(self, network: Network) -> bool:
        """Whether all that can be cut can be cut together; then :meth:`misfits` and :meth:`differences` find nothing.

        What is random in training is compared by neither of its draws, so then it is left to these.
        """
        if self.trained and len(self._runs) == 1:
            return False
        self.deadline.check("trying to cut everything")
        draws = zip(_draws(network), (self.example, random_like(self.example)), strict=True)
        return not network.cuttable or all(
            self._difference(self._lively, network, kept, given) is None for kept, given in draws
        )

    def misfits(self, network: Network) -> dict[str, str]:
        """Group name → why the shapes of the network without some of it do not fit; of those that do, nothing.

        Tried on tensors without values, for a fraction of the time; a model that does not run on such is tried as in
        :meth:`differences`.

        Raises:
            ModelError: time is up.
        """
        shaped, wanted = self._shaped
        if isinstance(wanted, Exception):
            return self.differences(network)
        draws = _draws(network)
        culprits = Culprits(
            network.cuttable,
            lambda groups, draw: self._misfit(shaped, network, _of(groups, draws[draw]), wanted),
            self.deadline,
            draws=len(draws),
        )
        return culprits.reasons()

    def differences(self, network: Network, sound: Sequence[ChannelGroup] | None = None) -> dict[str, str]:
        """Group name → why the network without some of it does not run, or does not answer like the masked one.

        Args:
            network: with groups.
            sound: groups that are known to survive it. The others are then tried together with these, in a copy with
                random weights all over, in which attention is sharp enough to show what its scores are divided by.

        Raises:
            ModelError: time is up.
        """
        model, sound = (self._lively, ()) if sound is None else (self._sharp, sound)
        draws, examples = _draws(network), (self.example, random_like(self.example))
        known = {group.name for group in sound}
        culprits = Culprits(
            [group for group in network.cuttable if group.name not in known],
            lambda groups, draw: self._difference(model, network, _of(groups, draws[draw]), examples[draw]),
            self.deadline,
            sound=sound,
            draws=len(draws),
        )
        return culprits.reasons()

    def removable(self, network: Network) -> tuple[Block, ...]:
        """The blocks without which the network runs, and answers like itself with these switched off.

        Of counterparts in repeated blocks, all or none.

        Raises:
            ModelError: time is up.
        """
        kinds: dict[str, list[Block]] = {}
        for block in network.blocks:
            kinds.setdefault(re.sub(r"\d+", "#", " ".join(block.modules)), []).append(block)
        accepted: list[Block] = []
        pending = [list(kinds.values())]
        while pending:
            chosen = pending.pop()
            self.deadline.check("trying to remove blocks")
            blocks = [*accepted, *(block for kind in chosen for block in kind)]
            if chosen and self._runs_without(network, blocks):
                accepted = blocks
            elif len(chosen) > 1:
                pending += [chosen[len(chosen) // 2 :], chosen[: len(chosen) // 2]]
        return tuple(block for block in network.blocks if block in accepted)

    def _runs_without(self, network: Network, blocks: Sequence[Block]) -> bool:
        """Whether it answers so in one draw, and in the other one returns what it should, as far as shapes tell."""
        gone = {name: list[int]() for block in blocks for name in block.groups}
        first, second = ({**draw, **gone} for draw in _draws(network))
        if self._difference(self._lively, network, first, self.example) is not None:
            return False
        shaped, wanted = self._shaped
        if isinstance(wanted, Exception):
            return self._difference(self._lively, network, second, random_like(self.example)) is None
        return self._misfit(shaped, network, second, wanted) is None

    @cached_property
    def _shaped(self) -> tuple[nn.Module, list[torch.Size] | Exception]:
        shaped = without_values(self.model)
        return shaped, self._shapes(shaped)

    def _shapes(self, shaped: nn.Module, *, values: bool = False) -> list[torch.Size] | Exception:
        """Of the outputs, found without values, if not said otherwise; or why not."""
        try:
            given = mapped(lambda tensor: tensor.clone() if values else tensor.to("meta"), self.example)
            outputs = outputs_of(shaped, given)
            if self.trained:
                outputs += training_outputs(shaped, given, self.trained)
            return [tensor.shape for tensor in outputs]
        except Exception as error:
            return error

    def _misfit(self, shaped: nn.Module, network: Network, kept: Kept, wanted: list[torch.Size]) -> str | None:
        """Why groups cannot be cut like this, as far as shapes tell; None if they can."""
        cuts = network.cuts(kept)
        sizes = frozenset((name, dim, len(places)) for name, dims in cuts.items() for dim, places in dims.items())
        if sizes not in self._tried:
            self._tried[sizes] = self._tried_shapes(shaped, cuts, wanted)
        return self._tried[sizes]

    def _tried_shapes(self, shaped: nn.Module, cuts: Cuts, wanted: list[torch.Size]) -> str | None:
        try:
            smaller = cut(shaped, cuts, shared=True)
            found = self._shapes(smaller)
            if isinstance(found, Exception):
                raise forward_failed(smaller, found)
            check_shapes(found, wanted)
        except SurgeryError as error:
            return error.message
        return None

    def _difference(self, model: nn.Module, network: Network, kept: Kept, given: Example) -> str | None:
        """Why groups cannot be cut like this; None if they can."""
        tolerance = tolerance_for(model)
        try:
            reference, smaller = cache(partial(masked, model, network, kept)), cut(model, network.cuts(kept))
            for run in self._runs:
                compare_outputs(reference, smaller, given, tolerance=tolerance, run=run)
        except SurgeryError as error:
            return error.message
        return None

    @cached_property
    def _runs(self) -> list[Run]:
        """What is compared: outputs, and those in training, where they are the same every time."""
        if not (self.trained and is_repeatable(self._lively, self.example, self.trained)):
            return [outputs_of]
        return [outputs_of, partial(training_outputs, paths=self.trained)]

    @cached_property
    def _lively(self) -> nn.Module:  # one copy for all readings
        return lively(self.model, self.example)

    @cached_property
    def _sharp(self) -> nn.Module:
        sharp = copied(self.model)
        _disturb(sharp.parameters(), everything=True)
        _adapt_statistics(sharp, self.example)
        return sharp if _response(sharp, self.example) > _ANSWERS else self._lively


def without_values(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters and buffers have shapes only; those that are shared stay so.

    Raises:
        ModelError: the model cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor.to("meta") for tensor in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    return copied(model, memo)


def _draws(network: Network) -> list[Kept]:
    """Random channels to keep: once about half, of groups of one size different numbers of them; then a few.

    What keeps equal numbers hides code that needs them equal, what keeps many hides code that asks for many, and what
    keeps even numbers, code that halves them; so those of the first are odd. A single channel would be refused by code
    that squeezes dimensions of size 1 away, which is otherwise sound; only of few channels one has to do.
    """
    random, alike = np.random.default_rng(0), Counter[int]()
    counts: dict[str, tuple[int, int]] = {}
    for group in network.groups:
        single = [group.least] if group.channels < 8 else []
        odd, few = single + list(range(3, group.channels, 2)), list(range(2, group.channels)) + single
        turn, place = divmod(alike[group.channels] + len(odd) // 2, len(odd))
        counts[group.name] = odd[place], few[turn % len(few)]
        alike[group.channels] += 1
    return [
        {
            group.name: sorted(random.choice(group.channels, counts[group.name][draw], replace=False).tolist())
            for group in network.cuttable
        }
        for draw in range(2)
    ]


def _of(groups: Iterable[ChannelGroup], kept: Kept) -> Kept:
    return {group.name: kept[group.name] for group in groups}


def lively(model: nn.Module, example: Example) -> nn.Module:
    """A copy in which a wrong cut shows.

    Freshly initialised networks hide errors: a normalisation that starts at zero multiplies whatever is wrong by zero
    (a layer scale by a millionth, a gate that is a buffer until a schedule opens it), channels with equal parameters
    can be exchanged unnoticed, and signals may die out long before the output. So parameters that are all equal, or
    next to nothing, get random values, buffers that are next to nothing as well, and batch norms the statistics of the
    example; if the output then still hardly depends on the input, all parameters become random. Buffers stay as they
    are in a model that does not run otherwise.

    Returns:
        The first of these copies whose output answers to its input, else the one that does so most.
    """
    best, most = model, -1.0
    for everything in (False, True):
        candidate = copied(model)
        _disturb(candidate.parameters(), everything)
        _open_gates(candidate, example)
        _adapt_statistics(candidate, example)
        response = _response(candidate, example)
        if response > _ANSWERS:
            return candidate
        if response > most:
            best, most = candidate, response
    return best


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


def _response(model: nn.Module, example: Example) -> float:
    """How much the outputs differ between two inputs, relative to the largest; -1 if they overflow."""
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


def _adapt_statistics(model: nn.Module, example: Example) -> None:
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
    except (RuntimeError, ValueError):  # one value per channel has no variance
        finite = False
    for norm, buffers, momentum in zip(norms, before, momenta, strict=True):
        norm.momentum = momentum
        if not finite:
            norm.load_state_dict(buffers, strict=False)


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
