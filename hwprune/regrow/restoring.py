"""Channels pruned far below a budget, then given back up to it as they were in the dense network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.budget import geometric, solve
from hwprune.errors import InputError
from hwprune.network import Network
from hwprune.network.masking import named_tensors
from hwprune.pruning import BudgetPruner, Pricing, PruneSchedule
from hwprune.pruning.pruner import Solve
from hwprune.regrow.channels import HAIR
from hwprune.regrow.growing import every_channel, grown, least_costs
from hwprune.regrow.moments import moments
from hwprune.saliency import Accumulator, Criterion, TaylorWeight


@dataclass(frozen=True, kw_only=True)
class RestoreSchedule:
    """How far to prune, how to grow back, and how long to train in between.

    Attributes:
        fraction: of every budget, what pruning leaves.
        prune: steps to there, and the minibatches of each.
        rounds: of growing, in which the budget is filled up in equal parts.
        tune_steps: minibatches of training before each of them.
        initial: values of what comes back: ``dense``, those of the dense model, or ``mru``, those that it had when it
            was pruned. At zero on both sides a channel would get no gradient.
    """

    fraction: float = 0.5
    prune: PruneSchedule = field(default_factory=PruneSchedule)
    rounds: int = 1
    tune_steps: int = 200
    initial: Literal["dense", "mru"] = "dense"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one is out of its range.
        """
        if not 0 < self.fraction < 1:
            raise InputError(f"fraction={self.fraction}", hint="give a share of the budget, above 0 and below 1")
        if self.rounds < 1 or self.tune_steps < 1:
            raise InputError(
                f"rounds={self.rounds}, tune_steps={self.tune_steps}", hint="both must be whole numbers of at least 1"
            )
        if self.initial not in ("dense", "mru"):
            raise InputError(f"initial is {self.initial!r}", hint="it must be dense or mru")

    @property
    def prune_steps(self) -> int:
        """Minibatches until pruning is done."""
        return self.prune.steps * self.prune.interval

    @property
    def steps(self) -> int:
        """Minibatches until the budget is filled."""
        return self.prune_steps + self.rounds * self.tune_steps


class DenseChannels:
    """What the dense network was: its tensors, and what its channels are worth.

    Make it before anything is pruned, run batches through the model with ``loss.backward()`` and without an optimizer's
    step, and call :meth:`update` after each.

    Args:
        model: the bare module that was traced, trained.
        network: its trace.
        criterion: saliency of a channel; first-order Taylor on weights if not given.

    Attributes:
        values: parameter or buffer → a copy.
        saliency: mean over the batches.
    """

    def __init__(self, model: nn.Module, network: Network, criterion: Criterion | None = None) -> None:
        self.values = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        self.saliency = Accumulator(network, criterion or TaylorWeight())

    def update(self, model: nn.Module) -> None:
        """Add a batch; call it after ``backward`` and before ``zero_grad()``.

        Raises:
            InputError: the weights have changed; otherwise as :meth:`hwprune.saliency.Accumulator.update`.
        """
        for name, parameter in model.named_parameters():
            if not torch.equal(parameter, self.values[name].to(parameter.device)):
                raise InputError(
                    f"{name} is not what it was when the dense network was remembered",
                    hint="collect saliency without optimizer steps, before anything is pruned",
                )
        self.saliency.update(model)

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything: nested dicts of tensors and plain values."""
        values = {name: value.clone() for name, value in self.values.items()}
        return {"values": values, "saliency": self.saliency.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the model may be pruned by now.

        Raises:
            InputError: it is of another criterion or another network.
        """
        self.saliency.load_state_dict(state["saliency"])
        self.values = {name: value.clone() for name, value in state["values"].items()}


class RestoringPruner(BudgetPruner):
    """Prunes channels far below a budget and restores some up to it, while somebody else's loop trains the model.

    The structured form of Liu & Sheng's pruning-regrowth (arXiv 2511.11675), with a budget of latency or anything else
    in place of a count:

    1. Channels are pruned as by :class:`~hwprune.pruning.BudgetPruner`, to a fraction of the budget.
    2. What is left is trained.
    3. The solver fills the budget: the channels that are there are held, the others compete by their saliency in the
       dense network, and what comes back has the dense network's weights and running statistics, in every layer that
       the channel runs through.

    Steps 2 and 3 may be repeated. Call :meth:`step` as that of :class:`~hwprune.pruning.BudgetPruner`, with the
    optimizer; train on when :attr:`finished` is true; :meth:`finish` then gives the smaller network.

    Our decisions: the authors sum |w·∂L/∂w| over a channel's weights, here any criterion of hwprune's serves. A weight
    between a channel that comes back and one that stays away stays away. What comes back has no momentum. Blocks that
    were removed come back like channels.

    Args:
        model: the bare module (not its DDP or Fabric wrapper), the one that was traced.
        network: ``trace(model, example)``.
        pricing: what every width costs.
        dense: of the same model; its criterion also decides what is pruned.
        limit: the budget in the unit of ``pricing.metric``, as the pricing predicts it.
        schedule: when and how.
        solver: what chooses the widths.

    Attributes:
        grown: one record per round of growing.

    Raises:
        InputError: the limit is not a positive number; no saliency of the dense network was collected.
        InfeasibleError: no choice of widths is inside it; said before any training.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        pricing: Pricing,
        dense: DenseChannels,
        *,
        limit: float,
        schedule: RestoreSchedule | None = None,
        solver: Solve = solve,
    ) -> None:
        super().__init__(model, network, pricing, limit=limit, criterion=dense.saliency.criterion, solver=solver)
        self.dense, self.stages = dense, schedule or RestoreSchedule()
        dense.saliency.scores()
        least = least_costs(pricing, limit)
        self._limits = {pricing.metric: limit, **pricing.caps}
        self._targets = {
            metric: geometric(
                value := pricing.value(pricing.dense, metric),
                min(value, max(self.stages.fraction * most, least[metric] * HAIR)),
                self.stages.prune.steps,
            )
            for metric, most in self._limits.items()
        }
        self._lowest: dict[str, float] = {}
        self.grown: list[dict[str, int]] = []

    @property
    def finished(self) -> bool:
        """True once the budget is filled."""
        return self._calls >= self.stages.steps

    def step(self, optimizer: Optimizer | None = None) -> None:
        """Account for one training step; prune or grow channels when that is due.

        Args:
            optimizer: that made the step, and remembers momentum or the like.
        """
        self.masks.apply()
        if self.finished:
            return
        self._calls += 1
        after = self._calls - self.stages.prune_steps
        if after <= 0:
            self._accumulator.update(self.model)
            done, rest = divmod(self._calls, self.stages.prune.interval)
            if rest == 0:
                self._prune({metric: targets[done - 1] for metric, targets in self._targets.items()})
                self.masks.apply()
        if after == 0:
            self._accumulator = self.dense.saliency
            self._lowest = {metric: self.pricing.value(self.widths, metric) for metric in self._limits}
        elif after > 0 and after % self.stages.tune_steps == 0:
            self._grow(after // self.stages.tune_steps, optimizer)

    def _grow(self, done: int, optimizer: Optimizer | None) -> None:
        active, before = self.masks.kept, self.masks.off
        part = done / self.stages.rounds
        targets = {
            metric: most if part == 1 else self._lowest[metric] + (most - self._lowest[metric]) * part
            for metric, most in self._limits.items()
        }
        kept = grown(self.pricing, self._solve, self._accumulator.scores(), targets, active)
        self.masks.restore_all()
        self.masks.keep_only(kept)
        self.masks.apply()
        self._begin_anew(before, optimizer)
        back = sum(len(channels) - len(active[group]) for group, channels in kept.items())
        pruned = sum(len(channels) - len(active[group]) for group, channels in every_channel(self.pricing).items())
        self.grown.append({"call": self._calls, "grown": back, "pruned": pruned})

    @torch.no_grad()
    def _begin_anew(self, before: dict[str, Tensor], optimizer: Optimizer | None) -> None:
        """Give positions that are on again their dense values, and the optimizer no memory of them."""
        off, parameters = self.masks.off, dict(self.model.named_parameters())
        for name, tensor in named_tensors(self.model).items():
            if name not in before:
                continue
            on = before[name].to(tensor.device)
            on = on & ~off[name].to(tensor.device) if name in off else on
            if self.stages.initial == "dense":
                tensor.copy_(torch.where(on, self.dense.values[name].to(tensor), tensor))
            held = moments(optimizer, parameters[name]) if optimizer and name in parameters else {}
            for value in held.values():
                value.masked_fill_(on, 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes: nested dicts of tensors and plain values; save that of ``dense`` once beside it."""
        return {**super().state_dict(), "lowest": dict(self._lowest), "grown": [dict(record) for record in self.grown]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the model's own weights are the caller's to restore first."""
        self._accumulator = Accumulator(self.network, self.dense.saliency.criterion)
        super().load_state_dict(state)
        self._lowest, self.grown = dict(state["lowest"]), [dict(record) for record in state["grown"]]
