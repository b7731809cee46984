"""Gradual magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hwprune.regrow._base import Context, Periodic
from hwprune.regrow.distribution import layer_counts, weights_at
from hwprune.regrow.schedule import cubic


@dataclass(frozen=True, kw_only=True)
class GMP(Periodic):
    """Prune the smallest weights, many in the beginning and ever fewer, and never grow any.

    Zhu & Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878), equation 1. They prune every layer by itself;
    ``global`` ranks all layers together, as GraNet's authors do.

    Decisions of ours: the last update falls on the step at ``until`` even if that is no multiple of the interval, so
    that the density is reached exactly.

    Attributes:
        interval: steps between two updates; in short trainings shorter than the papers' 1000, so that some twenty
            updates fall before ``until``.
        begin: share of the training before which nothing is pruned.
        until: share of the training at which the density is reached.
        scope: ``global``, or how the density is distributed to layers: ``uniform`` (the same curve for each), ``erk``.
    """

    interval: int = 1000
    begin: float = 0.0
    until: float = 0.5
    scope: Literal["global", "uniform", "erk"] = "global"

    name: ClassVar[str] = "gmp"
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(self.scope in ("global", "uniform", "erk"), "scope", "global, uniform or erk")
        self.require(0 <= self.begin <= self.until, "begin", "a share of the training, at most until")

    @property
    def prune_begin(self) -> int:
        """The step before which nothing is pruned."""
        return int(self.steps * self.begin)

    @property
    def prune_end(self) -> int:
        """The step at which the density is reached."""
        return max(1, int(self.steps * self.until))

    @property
    def last(self) -> int:
        """The step at which the density is reached."""
        return self.prune_end

    def planned(self, step: int) -> float:
        """What the curve said at the last update."""
        latest = step if step >= self.prune_end else step - step % self.interval
        return self._curve(latest) if latest else self.start_density

    @property
    def start_density(self) -> float:
        """Before the first update."""
        return 1.0

    def _curve(self, step: int) -> float:
        return cubic(step, begin=self.prune_begin, end=self.prune_end, first=self.start_density, last=self.density)

    def start(self, context: Context) -> None:
        """Everything is active."""

    def due(self, step: int) -> bool:
        """Every ``interval`` steps, and when the density is to be reached."""
        return self.prune_begin <= step <= self.last and (step % self.interval == 0 or step == self.prune_end)

    def update(self, context: Context) -> None:
        """Prune to the density of this step."""
        self.prune(context)

    def prune(self, context: Context) -> None:
        """Drop the smallest weights down to the density of this step."""
        density, masks = self._curve(context.step), context.masks
        if self.scope == "global":
            masks.keep_largest(weights_at(masks.total, density))
        else:
            masks.keep_largest_of_each(layer_counts(self.scope, masks.shapes, density))
