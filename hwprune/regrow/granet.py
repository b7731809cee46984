"""GraNet: gradual pruning with neuroregeneration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

from hwprune.regrow._base import Context
from hwprune.regrow.distribution import Distribution
from hwprune.regrow.drop_grow import drop_and_grow, largest
from hwprune.regrow.gmp import GMP
from hwprune.regrow.masks import Initial
from hwprune.regrow.schedule import cosine


@dataclass(frozen=True, kw_only=True)
class GraNet(GMP):
    """Prune along a cubic curve; after every prune step exchange the smallest weights of each layer.

    Liu et al., "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", NeurIPS 2021 (arXiv
    2106.10404), Algorithm 1. Of every layer ⌈r·nnz⌉ of the smallest weights are dropped and as many grown where the
    gradient of the last minibatch is largest; no layer gains or loses by that. r falls along a cosine over the whole
    training, and the exchange goes on when pruning has ended.

    Decisions of ours: the cubic curve ends on the density (the authors' code stops one update before); the sparse start
    has an exact number of weights (theirs tosses a coin for each); a layer without a gradient in this step keeps its
    mask.

    Attributes:
        initial_density: 1.0 is dense-to-sparse, 0.5 the paper's sparse-to-sparse.
        initial_distribution: of a sparse start.
        initial: its first active weights: ``random`` as in the paper, or the ``magnitude`` of a pretrained model's.
        regrow: r in the beginning.
        regrow_last: r at the end of the training.
    """

    initial_density: float = 1.0
    initial_distribution: Distribution = "erk"
    initial: Initial = "random"
    regrow: float = 0.5
    regrow_last: float = 0.005

    name: ClassVar[str] = "granet"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(
            self.density <= self.initial_density <= 1, "initial_density", f"from the density {self.density} to 1"
        )
        self.require(self.initial in get_args(Initial), "initial", "random or magnitude")
        self.require(0 <= self.regrow <= 1, "regrow", "a share of the weights, 0 to 1")
        self.require(0 <= self.regrow_last <= self.regrow, "regrow_last", "from 0 to regrow")

    @property
    def start_density(self) -> float:
        """Before the first update."""
        return self.initial_density

    @property
    def last(self) -> int:
        """The end of the training."""
        return self.steps

    def due(self, step: int) -> bool:
        """Every ``interval`` steps to the end, and when the density is to be reached."""
        return step <= self.last and (step % self.interval == 0 or step == self.prune_end)

    def start(self, context: Context) -> None:
        """Everything is active, or a part of it."""
        if self.initial_density < 1:
            context.masks.start(self.initial, self.initial_distribution, self.initial_density, seed=context.seed)

    def rate(self, step: int) -> float:
        """Share r of its weights that every layer exchanges."""
        return cosine(step, end=self.steps, first=self.regrow, last=self.regrow_last)

    def update(self, context: Context) -> None:
        """Prune to the density of this step, then exchange."""
        self.prune(context)
        for name, have in context.masks.counts.items():
            gradient = context.gradient(name)
            if gradient is not None:
                drop_and_grow(context.masks, name, math.ceil(self.rate(context.step) * have), largest(gradient))
