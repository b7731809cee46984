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
from torch.overrides import TorchFunctionMode

from hwprune.errors import SurgeryError
from hwprune.network.attention import make_resizable
from hwprune.network.branches import is_repeatable, training_outputs
from hwprune.network.culprits import Culprits
from hwprune.network.deadline import Deadline
from hwprune.network.difference import Run
from hwprune.network.disturbing import (
    ANSWERS,
    adapt_statistics,
    disturbed,
    lively,
    response,
    take_statistics,
)
from hwprune.network.forward import (
    Example,
    mapped,
    outputs_of,
    random_like,
)
from hwprune.network.masking import masked
from hwprune.network.network import Block, ChannelGroup, Network
from hwprune.network.surgery import Cuts, copied, cut, resize
from hwprune.network.verification import check_shapes, compare_outputs, forward_failed, tolerance_for

Kept = dict[str, list[int]]


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

    def together(self, network: Network) -> tuple[Block, ...] | None:
        """Try all cuts at once; of every kind of blocks, half of them removed in one draw and half in the other.

        Most networks are done with then.

        Returns:
            The blocks that were removed; a kind of its own is none of them. None if :meth:`misfits` and
            :meth:`differences` have to tell what cannot be cut: something does not survive, the answer does not show
            it, or what runs in training is random, so that no draw compares it.

        Raises:
            ModelError: time is up.
        """
        if self.trained and len(self._runs) == 1:
            return None
        several = [blocks for blocks in _kinds(network.blocks) if len(blocks) > 1]
        for kinds in [several, []] if several else [[]]:
            self.deadline.check("trying to cut everything")
            if self._survives(network, [[block for blocks in kinds for block in blocks[i::2]] for i in range(2)]):
                return tuple(block for blocks in kinds for block in blocks)
        return None

    def _survives(self, network: Network, removed: Sequence[Sequence[Block]]) -> bool:
        model, examples = self._disturbed, (self.example, random_like(self.example))
        for kept, blocks, given in zip(_draws(network), removed, examples, strict=True):
            try:
                smaller = self._compared(model, network, {**kept, **_gone(blocks)}, given)
            except SurgeryError:
                return False
            if blocks is removed[0] and response(smaller, given) <= ANSWERS:
                return False
        return True

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

    def removable(self, network: Network, sound: Sequence[Block] = ()) -> tuple[Block, ...]:
        """The blocks without which the network runs, and answers like itself with these switched off.

        Of counterparts in repeated blocks, all or none.

        Args:
            network: with blocks.
            sound: those that are known to be such.

        Raises:
            ModelError: time is up.
        """
        accepted = list(sound)
        pending = [_kinds(block for block in network.blocks if block not in sound)]
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
        first, second = ({**draw, **_gone(blocks)} for draw in _draws(network))
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
            with _QuickNorms():
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
        try:
            self._compared(model, network, kept, given)
        except SurgeryError as error:
            return error.message
        return None

    def _compared(self, model: nn.Module, network: Network, kept: Kept, given: Example) -> nn.Module:
        """The cut model, which answers like the masked one.

        In both, batch norms have the statistics that the cut one finds: with those of all channels, next to no signal
        would come through.

        Raises:
            SurgeryError: it does not.
        """
        cuts = network.cuts(kept)
        smaller = cut(model, cuts)
        adapt_statistics(smaller, given)

        @cache
        def reference() -> nn.Module:
            dense = masked(model, network, kept)
            take_statistics(dense, smaller, cuts)
            return dense

        for run in self._runs:
            compare_outputs(reference, smaller, given, tolerance=tolerance_for(model), run=run)
        return smaller

    @cached_property
    def _runs(self) -> list[Run]:
        """What is compared: outputs, and those in training, where they are the same every time."""
        if not (self.trained and is_repeatable(self._lively, self.example, self.trained)):
            return [outputs_of]
        return [outputs_of, partial(training_outputs, paths=self.trained)]

    @cached_property
    def _disturbed(self) -> nn.Module:  # one copy for all readings
        return disturbed(self.model, self.example)

    @cached_property
    def _lively(self) -> nn.Module:
        return lively(self.model, self.example, self._disturbed)

    @cached_property
    def _sharp(self) -> nn.Module:
        sharp = disturbed(self.model, self.example, everything=True)
        adapt_statistics(sharp, self.example)
        return sharp if response(sharp, self.example) > ANSWERS else self._lively


class _QuickNorms(TorchFunctionMode):
    """Batch norms of tensors without values, where sizes fit: torch takes them apart, which is most of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.batch_norm and args[0].is_meta:
            source, given = args[0], [one for one in args[1:5] if one is not None]
            if source.dim() > 1 and all(one.shape == source.shape[1:2] for one in given):
                return torch.empty_like(source)
        return func(*args, **(kwargs or {}))


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


def _kinds(blocks: Iterable[Block]) -> list[list[Block]]:
    """Counterparts together: blocks of the same modules, but for the numbers in their names."""
    kinds: dict[str, list[Block]] = {}
    for block in blocks:
        kinds.setdefault(re.sub(r"\d+", "#", " ".join(block.modules)), []).append(block)
    return list(kinds.values())


def _gone(blocks: Iterable[Block]) -> Kept:
    return {name: [] for block in blocks for name in block.groups}
