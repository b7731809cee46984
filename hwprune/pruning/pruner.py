"""The iterative pruner: importance, solver, mask, again; for any training loop.

The cycle is that of HALP: Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022 (arXiv
2210.06659), Algorithm 1. What solves each step is a parameter: the joint solver, HALP's knapsack, or a baseline. Masked
channels keep their most recent values aside (our decision).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hwprune.budget import Plan, Problem, geometric, kept_channels, solve
from hwprune.errors import InputError
from hwprune.network import Masks, Network, cut
from hwprune.pruning.pricing import Pricing
from hwprune.saliency import Accumulator, Criterion, TaylorBatchNorm

Solve = Callable[[Problem], Plan]
ROUNDING = 1e-9  # a target this little below the present cost is the same number, computed another way


@dataclass(frozen=True, kw_only=True)
class PruneSchedule:
    """When to prune.

    Attributes:
        steps: prune steps from the dense network to the budget; 1 is one-shot pruning. The joint solver needs a few,
            for saliency to be estimated anew; HALP's knapsack needs about thirty.
        interval: minibatches over which saliency is averaged before each step.
    """

    steps: int = 5
    interval: int = 40

    def __post_init__(self) -> None:
        if self.steps < 1 or self.interval < 1:
            raise InputError(
                f"steps={self.steps}, interval={self.interval}", hint="both must be whole numbers of at least 1"
            )


class BudgetPruner:
    """Prunes a model to a budget while somebody else's loop trains it.

    Call :meth:`step` after every ``optimizer.step()`` and before ``zero_grad()``; the gradients of the
    step are read there (under AMP they are unscaled by then, under DistributedDataParallel averaged).
    Saliency is averaged over ``interval`` minibatches; then channels are masked so that the predicted
    cost falls along the paper's geometric schedule. After ``steps * interval`` calls :attr:`finished` is
    true, and :meth:`finish` gives the smaller network. The last of the steps is left to ``finish``: it
    lands exactly on the budget.

    Args:
        model: the bare module (not its DDP or Fabric wrapper), the one that was traced.
        network: ``trace(model, example)``.
        pricing: what every width costs (:func:`hwprune.pruning.price`).
        limit: the budget in the unit of ``pricing.metric``, as the pricing predicts it; the limits of other metrics
            are the pricing's.
        schedule: how many steps, how far apart.
        criterion: saliency of a channel; HALP's first-order Taylor on batch norm if not given.
        solver: what chooses the widths, see :data:`hwprune.budget.solvers`; the joint optimum if not given.

    Raises:
        InputError: the limit is not a positive number.
        InfeasibleError: no choice of widths is inside it; said before any training.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        pricing: Pricing,
        *,
        limit: float,
        schedule: PruneSchedule | None = None,
        criterion: Criterion | None = None,
        solver: Solve = solve,
    ) -> None:
        pricing.check_reach(limit)
        self.model, self.network, self.pricing, self.limit = model, network, pricing, limit
        self.schedule = schedule or PruneSchedule()
        self.masks = Masks(model, network)
        self._accumulator = Accumulator(network, criterion or TaylorBatchNorm())
        self._solve, self._calls = solver, 0
        self._targets = {
            metric: geometric(dense := pricing.value(pricing.dense, metric), min(most, dense), self.schedule.steps)
            for metric, most in {pricing.metric: limit, **pricing.caps}.items()
        }

    @property
    def finished(self) -> bool:
        """True once all saliency that the schedule asks for has been collected."""
        return self._calls >= self.schedule.steps * self.schedule.interval

    @property
    def widths(self) -> dict[str, int]:
        """Width of every cuttable group under the present masks."""
        return {group: len(self.masks.kept[group]) for group in self.pricing.widths}

    def step(self, optimizer: Optimizer | None = None) -> None:
        """Account for one training step; mask channels when a prune step is due.

        Args:
            optimizer: that made the step; not needed here.
        """
        if not self.finished:
            self._calls += 1
            self._accumulator.update(self.model)
            done, rest = divmod(self._calls, self.schedule.interval)
            if rest == 0 and done < self.schedule.steps:
                self._prune({metric: targets[done - 1] for metric, targets in self._targets.items()})
        self.masks.apply()

    def _prune(self, targets: dict[str, float]) -> None:
        metric = self.pricing.metric
        caps = {other: target for other, target in targets.items() if other != metric}
        if any(self.pricing.value(self.widths, one) > target * (1 + ROUNDING) for one, target in targets.items()):
            scores = self._accumulator.scores()
            plan = self._solve(self.pricing.problem(scores, self.masks.kept, targets[metric], caps=caps))
            self.masks.keep_only(self._chosen(plan))
        self._accumulator.reset()

    def _chosen(self, plan: Plan) -> dict[str, list[int]]:
        """The most salient of the channels that are left, as many as the plan keeps of every group."""
        scores, chosen = self._accumulator.scores(), {}
        for group, width in plan.widths.items():
            alive = self.masks.kept[group]
            chosen[group] = [alive[i] for i in kept_channels(scores[group][alive], width)]
        return chosen

    def problem(self, limit: float | None = None) -> Problem:
        """The budget problem over the channels that are left, at the saliency collected so far."""
        return self.pricing.problem(self._accumulator.scores(), self.masks.kept, self.limit if limit is None else limit)

    def complete(self, plan: Plan) -> Plan:
        """Add to a plan of widths which channels stay, and the cuts that rebuild the network from it."""
        kept = {**{group: self.masks.kept[group] for group in self.pricing.widths}, **self._chosen(plan)}
        return replace(
            plan,
            widths={group: len(channels) for group, channels in kept.items()},
            kept={group: tuple(channels) for group, channels in kept.items()},
            cuts=self.network.cuts(kept),
        )

    def finish(self) -> tuple[Plan, nn.Module]:
        """Solve for the budget itself and cut.

        Returns:
            the plan, and a smaller copy of the model; the model itself stays as it is.

        Raises:
            InfeasibleError: no choice of widths is inside the budget.
        """
        plan = self.complete(self._solve(self.problem()))
        return plan, cut(self.model, plan.cuts)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: nested dicts of tensors and plain values."""
        return {"calls": self._calls, "masks": self.masks.state_dict(), "saliency": self._accumulator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the model's own weights are the caller's to restore first."""
        self._calls = int(state["calls"])
        self._accumulator.load_state_dict(state["saliency"])
        with torch.no_grad():
            self.masks.load_state_dict(state["masks"])
