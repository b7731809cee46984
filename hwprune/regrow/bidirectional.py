"""Bidirectional pruning-regrowth: prune far too much, then grow weights back into what a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.errors import InputError
from hwprune.regrow.agreement import check_agreement
from hwprune.regrow.dense_reference import DenseReference
from hwprune.regrow.distribution import layer_counts, weights_at
from hwprune.regrow.history import History, MaskUpdate
from hwprune.regrow.lamp import lamp_scores
from hwprune.regrow.masks import SparseMasks, check_same_settings
from hwprune.regrow.ranking import top_k_of_all
from hwprune.regrow.regrowth import Allocation, Regrowth
from hwprune.regrow.similarity import Run, output_maps, similarities

Size = Callable[[Mapping[str, Tensor]], float]
"""What a set of masks takes, weight → bool mask, in the unit of the budget."""


@dataclass(frozen=True, kw_only=True)
class BidirectionalSchedule:
    """How far to prune, how to grow back, and how long to train in between.

    Attributes:
        density: share of the weights that pruning leaves.
        prune_by: ``lamp``, or by magnitude ``global`` over all layers, or with the density of each layer by
            ``uniform`` or ``erk``.
        prune_rounds: 1 is one-shot; in more, the density falls by the same factor each time.
        prune_steps: of training after each prune round.
        regrow_rounds: in which the budget is filled up, in equal parts.
        regrow_steps: of training after each but the last regrow round; after that, train as long as you like.
        allocation: how weights that come back are given to layers, see :class:`~hwprune.regrow.regrowth.Regrowth`.
        initial: their values: ``dense``, those of the dense model; ``zero``; ``mru``, those that they had when they
            were pruned.
    """

    density: float = 0.01
    prune_by: Literal["lamp", "global", "uniform", "erk"] = "lamp"
    prune_rounds: int = 1
    prune_steps: int = 1000
    regrow_rounds: int = 1
    regrow_steps: int = 1000
    allocation: Allocation = "global"
    initial: Literal["dense", "zero", "mru"] = "zero"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one is out of its range.
        """
        self._require("density", 0 < self.density < 1, "above 0 and below 1")
        self._require("prune_by", self.prune_by in ("lamp", "global", "uniform", "erk"), "lamp, global, uniform or erk")
        for field in ("prune_rounds", "prune_steps", "regrow_rounds", "regrow_steps"):
            self._require(field, getattr(self, field) >= 1, "a whole number of at least 1")
        self._require("allocation", self.allocation in get_args(Allocation), "proportional, global or greedy")
        self._require("initial", self.initial in ("dense", "zero", "mru"), "dense, zero or mru")

    def _require(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise InputError(f"bidirectional: {field} is {getattr(self, field)!r}", hint=f"it must be {allowed}")


class BidirectionalPruner:
    """Prunes a trained model far below a budget and fills the budget up again, while somebody else's loop trains it.

    Liu & Sheng, "Bidirectional Pruning-Regrowth" (arXiv 2511.11675), without the reinforcement learning that shares the
    budget out: prune to an extreme sparsity, fine-tune, grow back the weights that were most salient in the dense
    model, fine-tune.

    Call :meth:`step` after every ``optimizer.step()``, as that of :class:`~hwprune.regrow.SparsePruner`: its first
    call prunes, and the others follow the schedule. A round can also be asked for: call :meth:`advance` before the
    training, or as soon as a validation split says that the fine-tuning has come to an end. Where the best weights of
    the fine-tuning are to be chosen on that split, load them into the model first.

    The paper leaves these open; they are our decisions. The rounds of growing fill equal parts of the budget. Weights
    that come back have no momentum. The similarity of outputs is measured anew before every round of growing. Biases
    and normalisations are trained on and not put back to the dense model's.

    Args:
        model: the bare module (not its DDP or Fabric wrapper), with the dense weights.
        optimizer: trains it; any of torch's.
        dense: of the same model; says which weights are masked.
        budget: of active weights, or in the unit of ``size``.
        schedule: when and how.
        size: what masks take, bytes for example; larger masks take more. The number of active weights if not given.
        run: runs the model on some batches; needed by allocations other than ``global``, and only for them.
        check_ranks: whether the processes of a distributed training compare their masks after every round.

    Attributes:
        masks: which weights are active.
        similarity: weight → SSIM of its layer's outputs before the last round of growing.

    Raises:
        ModelError: see :func:`hwprune.regrow.weights.find_weights`.
        InputError: there is nothing to prune or nothing to grow; the reference lacks what the allocation goes by.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        dense: DenseReference,
        *,
        budget: float,
        schedule: BidirectionalSchedule | None = None,
        size: Size | None = None,
        run: Run | None = None,
        check_ranks: bool = True,
    ) -> None:
        self.model, self.optimizer, self.dense, self.budget = model, optimizer, dense, budget
        self.schedule, self._size, self._run = schedule or BidirectionalSchedule(), size, run
        self.masks = SparseMasks(model, first_dense=dense.first_dense, exclude=dense.exclude)
        self.similarity: dict[str, float] = {}
        self._check_ranks, self._calls, self._since, self._rounds, self._base = check_ranks, 0, 0, 0, 0.0
        self._aside: dict[str, Tensor] = {}
        self._history = History()
        self._check()

    @property
    def finished(self) -> bool:
        """True once the budget is filled; :meth:`step` still keeps weights outside the masks at zero."""
        return self._rounds >= self.schedule.prune_rounds + self.schedule.regrow_rounds

    @property
    def growing(self) -> bool:
        """True once all prune rounds are done."""
        return self._rounds >= self.schedule.prune_rounds

    @property
    def due(self) -> bool:
        """True if the next :meth:`step` begins a round: time to judge, and to choose among weights."""
        steps = self.schedule.regrow_steps if self._rounds > self.schedule.prune_rounds else self.schedule.prune_steps
        return not self.finished and (self._rounds == 0 or self._since + 1 >= steps)

    @property
    def history(self) -> list[MaskUpdate]:
        """One record per round."""
        return list(self._history.updates)

    def step(self) -> None:
        """Account for one training step; prune or grow when that is due.

        Raises:
            InputError: as :meth:`advance`.
        """
        due = self.due
        self._calls, self._since = self._calls + 1, self._since + 1
        self.masks.follow()
        self.masks.apply(self.optimizer)
        if due:
            self.advance()

    @torch.no_grad()
    def advance(self) -> None:
        """Begin the next round now, whatever the schedule says.

        Raises:
            InputError: all rounds are done; a weight is not finite; what pruning leaves exceeds the budget already; no
                convolution has an output that could be compared; masks differ by process.
        """
        if self.finished:
            raise InputError("all rounds of pruning and growing are done", hint="train on; masks stay as they are")
        self.masks.follow()
        self.masks.apply(self.optimizer)
        self.masks.check_finite(self._calls)
        before = dict(self.masks.active)
        if self.growing:
            self._grow()
        else:
            self._prune()
        self.masks.apply(self.optimizer)
        self._rounds, self._since = self._rounds + 1, 0
        self._history.record(self._calls, before, self.masks.active)
        if self._check_ranks:
            check_agreement(self.masks.active)

    def _prune(self) -> None:
        masks, by, done = self.masks, self.schedule.prune_by, self._rounds + 1
        before = dict(masks.active)
        density = self.schedule.density ** (done / self.schedule.prune_rounds)
        if by == "uniform" or by == "erk":
            masks.keep_largest_of_each(layer_counts(by, masks.shapes, density))
        elif by == "global":
            masks.keep_largest(weights_at(masks.total, density))
        else:
            scores = {name: lamp_scores(weight.parameter) for name, weight in masks.weights.items()}
            masks.active = top_k_of_all(scores, weights_at(masks.total, density), masks.active)
        if self.schedule.initial == "mru":
            for name, weight in masks.weights.items():
                value = weight.parameter.detach()
                aside = self._aside.get(name, value).to(value)
                self._aside[name] = torch.where(before[name], value, aside)
        if done == self.schedule.prune_rounds:
            self._base = self._taken(masks.active)
            self._check_room()

    def _grow(self) -> None:
        done, rounds = self._rounds - self.schedule.prune_rounds + 1, self.schedule.regrow_rounds
        limit = self.budget if done == rounds else self._base + (self.budget - self._base) * done / rounds
        self.similarity = self._similarities()
        saliency = self.dense.saliency()
        regrowth = Regrowth(self.masks.active, saliency, self.schedule.allocation, self.similarity)
        if self._size is None:
            grown = regrowth.masks(int(limit + 1e-6) - sum(self.masks.counts.values()))
        else:
            grown = regrowth.within(limit, self._size)
        values = {"dense": self.dense.values, "mru": self._aside, "zero": {}}[self.schedule.initial]
        for name, value in values.items():
            parameter = self.masks.weights[name].parameter
            new = grown[name] & ~self.masks.active[name]
            parameter.copy_(torch.where(new, value.to(parameter), parameter))
        self.masks.active = grown

    def _similarities(self) -> dict[str, float]:
        if self.schedule.allocation == "global":
            return {}
        assert self._run is not None  # checked when the pruner was made
        return similarities(self.dense.maps, output_maps(self.model, self.masks.active, self._run))

    def _taken(self, active: Mapping[str, Tensor]) -> float:
        return self._size(active) if self._size else sum(int(mask.sum()) for mask in active.values())

    def _check(self) -> None:
        shapes = {name: tuple(value.shape) for name, value in self.dense.values.items()}
        if shapes != self.masks.shapes:
            differing = sorted({name for name, _ in shapes.items() ^ self.masks.shapes.items()})
            raise InputError(
                f"the dense reference does not fit the model: {', '.join(differing)}",
                hint="make it of the same model, before it is pruned",
            )
        self.dense.saliency()
        if self.schedule.allocation != "global" and not (self._run and self.dense.maps):
            raise InputError(
                f"allocation {self.schedule.allocation!r} compares outputs of the dense and the sparse model",
                hint="call observe(model, run) on the dense reference and give the same run here, or use global",
            )
        if self._taken(self.masks.active) <= self.budget:
            raise InputError(
                f"the dense model is inside the budget of {self.budget:g}: there is nothing to prune",
                hint=f"it takes {self._taken(self.masks.active):g}; give less",
            )
        if self._size is None:
            self._base = weights_at(self.masks.total, self.schedule.density)
            self._check_room()

    def _check_room(self) -> None:
        if self._base >= self.budget:
            raise InputError(
                f"density {self.schedule.density:g} leaves weights that take {self._base:g}, and the budget is "
                f"{self.budget:g}: nothing could grow back",
                hint="prune to a lower density, or give a larger budget",
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes: nested dicts of tensors and plain values.

        The weights and the optimizer's state are the caller's to save, and once, as it stays the same, the state of
        the dense reference.
        """
        return {
            "schedule": {**asdict(self.schedule), "budget": self.budget},
            "counters": {"calls": self._calls, "since": self._since, "rounds": self._rounds, "base": self._base},
            "masks": self.masks.state_dict(),
            "aside": {name: value.clone() for name, value in self._aside.items()},
            "similarity": dict(self.similarity),
            "history": self._history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, bit for bit; weights and optimizer are the caller's to restore.

        Raises:
            InputError: the state is of other settings, another budget or another model.
        """
        here, there = {**asdict(self.schedule), "budget": self.budget}, state["schedule"]
        check_same_settings(here, there, hint="continue with the schedule and budget of the run")
        self.masks.load_state_dict(state["masks"])
        counters = state["counters"]
        self._calls, self._since, self._rounds = (int(counters[key]) for key in ("calls", "since", "rounds"))
        self._base, self.similarity = counters["base"], dict(state["similarity"])
        self._aside = {name: value.clone() for name, value in state["aside"].items()}
        self._history.load_state_dict(state["history"])
