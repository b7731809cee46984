"""IEE for channels: what is pruned is tried out before it is given up, inside a budget of latency or anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hwprune.budget import geometric, solve
from hwprune.errors import InputError
from hwprune.network import Network
from hwprune.pruning import BudgetPruner, Pricing
from hwprune.pruning.pruner import Solve
from hwprune.regrow.freezing import Frozen
from hwprune.regrow.growing import every_channel, grown, least_costs
from hwprune.regrow.schedule import cosine
from hwprune.saliency import Criterion

HAIR = 1 + 1e-6  # above the least that any widths cost, where Ω asks for less


@dataclass(frozen=True, kw_only=True)
class ExploreSchedule:
    """When to prune, explore and grow.

    Attributes:
        cycles: of importance, accuracy and exploration.
        importance_steps: H, minibatches over which saliency is averaged before each prune step.
        accuracy_steps: J, minibatches of training after it.
        exploration_steps: Q, minibatches for which everything pruned is trained alone; saliency is averaged over them.
        fraction: Ω of the first cycle, as a share of the budget; it falls along a cosine to none after the last.
        gradual: the budget falls from the dense network's cost to the limit, by the same factor every cycle, as from a
            pretrained model; otherwise it is the limit from the first cycle on, as from scratch.
    """

    cycles: int = 5
    importance_steps: int = 150
    accuracy_steps: int = 150
    exploration_steps: int = 150
    fraction: float = 0.3
    gradual: bool = True

    def __post_init__(self) -> None:
        counts = (self.cycles, self.importance_steps, self.accuracy_steps, self.exploration_steps)
        if min(counts) < 1:
            raise InputError(
                "cycles={}, importance_steps={}, accuracy_steps={}, exploration_steps={}".format(*counts),
                hint="all must be whole numbers of at least 1",
            )
        if not 0 <= self.fraction < 1:
            raise InputError(f"fraction={self.fraction}", hint="give a share of the budget, from 0 to less than 1")

    @property
    def cycle(self) -> int:
        """Minibatches of one cycle."""
        return self.importance_steps + self.accuracy_steps + self.exploration_steps

    @property
    def steps(self) -> int:
        """Minibatches of all cycles, and of the last saliency."""
        return self.cycles * self.cycle + self.importance_steps

    @classmethod
    def of(cls, iterations: int, *, cycles: int = 5, fraction: float = 0.3, gradual: bool = True) -> ExploreSchedule:
        """As many equal stages as fit into a number of minibatches, of 150 each at most, as in the paper.

        Raises:
            InputError: there are too few of them.
        """
        each = min(150, iterations // (3 * cycles + 1))
        if each < 1:
            raise InputError(
                f"{cycles} cycles take at least {3 * cycles + 1} minibatches, and there are {iterations}",
                hint="give fewer prune steps, or more epochs to spread them over",
            )
        return cls(
            cycles=cycles,
            importance_steps=each,
            accuracy_steps=each,
            exploration_steps=each,
            fraction=fraction,
            gradual=gradual,
        )


class ExploringPruner(BudgetPruner):
    """Prunes a model to a budget while somebody else's loop trains it, and lets channels come back.

    Sun et al., "Advancing Weight and Channel Sparsification with Enhanced Saliency", WACV 2025 (arXiv 2502.03658):
    iterative exploitation and exploration, with a budget in place of a count. One cycle:

    1. The active channels train for H steps, and their saliency is collected.
    2. The solver prunes them to the budget less Ω.
    3. What is left trains for J steps.
    4. All that is pruned is switched on at its most recently used values and trained alone for Q steps, while
       everything active is frozen; saliency is collected.
    5. The solver grows channels (and blocks, where these may be removed) back, the active ones held, up to the
       budget; what is not grown is switched off again, and keeps the values it came to.

    Call :meth:`step` as that of :class:`~hwprune.pruning.BudgetPruner`, with the optimizer. After the last cycle
    saliency is collected once more; :meth:`finish` then gives the smaller network, inside the limit.

    The paper's text leaves these open; they are our decisions. Ω is a share of every budget. Frozen means parameters
    and buffers (running statistics) outside of what is explored: they are put back after each of the optimizer's
    steps, which works with any optimizer, momentum and weight decay. Explored channels begin without momentum and lose
    what they gained beside channels that are switched off again; the others get back what the optimizer remembered of
    them. Between two cycles the network is trained on only by the next importance stage.

    Args:
        model: the bare module (not its DDP or Fabric wrapper), the one that was traced.
        network: ``trace(model, example)``.
        pricing: what every width costs.
        limit: the budget in the unit of ``pricing.metric``, as the pricing predicts it.
        schedule: how many cycles, how long their stages.
        criterion: saliency of a channel; HALP's first-order Taylor on batch norm if not given.
        solver: what chooses the widths.

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
        schedule: ExploreSchedule | None = None,
        criterion: Criterion | None = None,
        solver: Solve = solve,
    ) -> None:
        super().__init__(model, network, pricing, limit=limit, criterion=criterion, solver=solver)
        self.stages = schedule or ExploreSchedule()
        cycles = self.stages.cycles
        self._targets = {
            metric: geometric(dense := pricing.value(pricing.dense, metric), min(most, dense), cycles)
            if self.stages.gradual
            else [most] * cycles
            for metric, most in {pricing.metric: limit, **pricing.caps}.items()
        }
        self._least = least_costs(pricing, limit)
        self._frozen: Frozen | None = None
        self._held: dict[str, list[int]] = {}  # channels, while the others are explored
        self.grown: list[dict[str, Any]] = []

    @property
    def finished(self) -> bool:
        """True once all cycles are done and the last saliency is collected."""
        return self._calls >= self.stages.steps

    @property
    def exploring(self) -> bool:
        """True while what is pruned is switched on: no time to judge the network."""
        return self._frozen is not None

    @property
    def active(self) -> dict[str, list[int]]:
        """Cuttable group → its active channels; while exploring, those that are frozen."""
        return self._held or self.masks.kept

    @property
    def widths(self) -> dict[str, int]:
        """Width of every cuttable group; while exploring, of what is active."""
        return {group: len(self.active[group]) for group in self.pricing.widths}

    def step(self, optimizer: Optimizer | None = None) -> None:
        """Account for one training step; prune, explore or grow when that is due.

        Args:
            optimizer: that made the step, and remembers momentum or the like.
        """
        if not self.finished:
            self._calls += 1
            self._advance(*divmod(self._calls - 1, self.stages.cycle), optimizer)
        if not self.exploring:
            self.masks.apply()

    def _advance(self, cycle: int, place: int, optimizer: Optimizer | None) -> None:
        """One step at a place in a cycle."""
        stages = self.stages
        prune, explore = stages.importance_steps, stages.importance_steps + stages.accuracy_steps
        if place < prune or place >= explore:
            self._accumulator.update(self.model)
        if self._frozen:
            self._frozen.put_back(self.model)
        if cycle == stages.cycles:
            return  # the last saliency
        if place + 1 == prune:
            omega = cosine(cycle, end=stages.cycles, first=stages.fraction)
            self._prune({m: max((1 - omega) * t[cycle], self._least[m] * HAIR) for m, t in self._targets.items()})
        elif place + 1 == explore:
            self._explore(optimizer)
        elif place + 1 == stages.cycle:
            self._grow({metric: targets[cycle] for metric, targets in self._targets.items()}, optimizer)

    def _explore(self, optimizer: Optimizer | None) -> None:
        self._accumulator.reset()
        self._held = self.masks.kept
        self.masks.apply()
        self._frozen = Frozen.begin(self.model, optimizer, self.masks.off)
        self.masks.restore_all()

    def _grow(self, targets: Mapping[str, float], optimizer: Optimizer | None) -> None:
        assert self._frozen is not None
        active, everything = self.active, every_channel(self.pricing)
        kept = grown(self.pricing, self._solve, self._accumulator.scores(), targets, active)
        self._frozen.end(self.model, optimizer)
        self.masks.keep_only(kept)
        back = sum(len(kept[group]) - len(active[group]) for group in kept)
        explored = sum(len(everything[group]) - len(active[group]) for group in kept)
        self.grown.append({"call": self._calls, "grown": back, "explored": explored})
        self._frozen, self._held = None, {}
        self._accumulator.reset()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, in any stage: nested dicts of tensors and plain values."""
        return {
            **super().state_dict(),
            "frozen": self._frozen.state_dict() if self._frozen else {},
            "active": {group: list(channels) for group, channels in self._held.items()},
            "grown": list(self.grown),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the model's own weights are the caller's to restore first."""
        super().load_state_dict(state)
        self.grown = list(state["grown"])
        self._frozen = Frozen(**state["frozen"]) if state["frozen"] else None
        self._held = {group: list(channels) for group, channels in state["active"].items()}
