"""IEE: exploitation of what is active, exploration of what is pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from hwprune.regrow._base import Context, Rule
from hwprune.regrow.distribution import Distribution, layer_counts
from hwprune.regrow.freezing import Frozen
from hwprune.regrow.masks import Initial
from hwprune.regrow.ranking import top_k
from hwprune.regrow.schedule import cosine
from hwprune.regrow.weights import magnitude


@dataclass(frozen=True, kw_only=True)
class IEE(Rule):
    """Try out all pruned weights together for some steps before choosing which of them to grow.

    Sun et al., "Advancing Weight and Channel Sparsification with Enhanced Saliency", WACV 2025 (arXiv 2502.03658), the
    unstructured method. A cycle has three stages: the active weights train for H steps, then the Ω smallest of every
    layer are pruned; the rest trains for J steps; then everything that is pruned is switched on at its most recently
    used values and trained alone for Q steps, while what was active is frozen. The Ω largest of it are grown, with the
    values they came to, and the others switched off.

    Exploration trains a dense network: count Q of every H + J + Q steps as dense when reporting cost. Two more copies
    of the weights are held, and one of the optimizer's state.

    The paper's text leaves these open; they are our decisions. Ω falls along RigL's cosine, from 30 % of a layer's
    weights to none at ``until``; cycles that would not end by then are not begun, and training goes on with fixed
    masks. Frozen means every parameter that is not explored, biases and normalisations too, and every buffer (running
    statistics), as the network that they describe is not the one being explored. They are put back after each of the
    optimizer's steps, which works with any optimizer, momentum and weight decay; step counters go on. Explored weights
    begin without momentum and lose what they gained, since it was gained beside weights that are switched off again;
    all others get the optimizer state back that they had before.

    Attributes:
        density: share of the masked weights that is active between two cycles; Ω less within one.
        distribution: of the density to the layers.
        initial: the first active weights: ``random``, or the ``magnitude`` of a pretrained model's.
        fraction: Ω in the first cycle, as a share of a layer's active weights.
        importance_steps: H.
        accuracy_steps: J.
        exploration_steps: Q.
        until: share of the training after which masks stay.
    """

    density: float = 0.1
    distribution: Distribution = "erk"
    initial: Initial = "random"
    fraction: float = 0.3
    importance_steps: int = 150
    accuracy_steps: int = 150
    exploration_steps: int = 150
    until: float = 0.75

    name: ClassVar[str] = "iee"
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(0 < self.density <= 1, "density", "above 0 and at most 1")
        self.require(0 <= self.fraction <= 1, "fraction", "a share of the weights, 0 to 1")
        self.require(self.initial in get_args(Initial), "initial", "random or magnitude")
        for field in ("importance_steps", "accuracy_steps", "exploration_steps"):
            self.require(getattr(self, field) >= 1, field, "a whole number of at least 1")
        self.require(0 < self.until <= 1, "until", "a share of the training, above 0 and at most 1")
        self.require(
            self.last > 0, "steps", f"enough for one cycle of {self._cycle} steps in the first {self.until:.0%} of them"
        )

    @property
    def _cycle(self) -> int:
        return self.importance_steps + self.accuracy_steps + self.exploration_steps

    @property
    def last(self) -> int:
        """The end of the last cycle."""
        return int(self.steps * self.until) // self._cycle * self._cycle

    def planned(self, step: int) -> float:
        """Always the same."""
        return self.density

    def start(self, context: Context) -> None:
        """Random masks, or the largest weights, with the distribution's number in every layer."""
        masks = context.masks
        context.memory["aside"] = {name: weight.parameter.detach().clone() for name, weight in masks.weights.items()}
        masks.start(self.initial, self.distribution, self.density, seed=context.seed)

    def due(self, step: int) -> bool:
        """After the first stage of a cycle, and after its last."""
        return 0 < step <= self.last and step % self._cycle in (0, self.importance_steps)

    def explores(self, step: int) -> bool:
        """From the end of the second stage to the end of the third."""
        return step < self.last and step % self._cycle >= self.importance_steps + self.accuracy_steps

    def rate(self, step: int) -> float:
        """Ω of the cycle that a step belongs to, as a share of a layer's active weights."""
        begin = (step - 1) // self._cycle * self._cycle
        return cosine(begin, end=int(self.steps * self.until), first=self.fraction)

    def settle(self, context: Context) -> None:
        """Hold pruned weights at zero, or the others at what they were; switch pruned weights on when it is time."""
        if self.explores(context.step - 1):
            Frozen(**context.memory["frozen"]).put_back(context.model)
        else:
            super().settle(context)
        if self.explores(context.step) and not self.explores(context.step - 1):
            _switch_on(context)

    def update(self, context: Context) -> None:
        """Prune, or grow from what was explored."""
        masks, aside = context.masks, context.memory["aside"]
        before, growing = dict(masks.active), context.step % self._cycle == 0
        counts = layer_counts(self.distribution, masks.shapes, self.density)
        omega = {name: int(self.rate(context.step) * count) for name, count in counts.items()}
        if growing:
            for name, active in before.items():
                masks.active[name] = active | top_k(magnitude(masks.weights[name].parameter), omega[name], ~active)
            Frozen(**context.memory.pop("frozen")).end(context.model, context.optimizer)
        else:
            masks.keep_largest_of_each({name: count - omega[name] for name, count in counts.items()})
        for name, weight in masks.weights.items():
            used = ~before[name] if growing else before[name]  # by the stage that ends here
            aside[name] = torch.where(used, weight.parameter.detach(), _near(aside[name], weight.parameter))


def _near(saved: Tensor, live: Tensor) -> Tensor:
    return saved.to(device=live.device, dtype=live.dtype)


def _switch_on(context: Context) -> None:
    """Remember everything, then give pruned weights their most recently used values."""
    explored = {name: ~active for name, active in context.masks.active.items()}
    context.memory["frozen"] = vars(Frozen.begin(context.model, context.optimizer, explored))
    for name, weight in context.masks.weights.items():
        values = _near(context.memory["aside"][name], weight.parameter)
        weight.parameter.copy_(torch.where(explored[name], values, weight.parameter))
