"""RigL: the rigged lottery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from hwprune.regrow._base import Context, Periodic
from hwprune.regrow.distribution import Distribution
from hwprune.regrow.drop_grow import drop_and_grow, largest
from hwprune.regrow.masks import Initial
from hwprune.regrow.schedule import cosine


@dataclass(frozen=True, kw_only=True)
class RigL(Periodic):
    """Stay sparse from the start; every so often exchange the smallest weights for those of the largest gradient.

    Evci et al., "Rigging the Lottery", ICML 2020 (arXiv 1911.11134), Algorithm 1. Of every layer the f(t)·nnz smallest
    weights are dropped and as many grown, at zero and without momentum, where the dense gradient of this minibatch is
    largest; f(t) = α/2·(1 + cos(π·t/T_end)).

    In the paper an update of the masks takes the place of the weights' update. A pruner that is called after
    ``optimizer.step()`` comes too late for that, and to undo the step would need a copy of all weights and of the
    optimizer's state. So here the weights are updated, then the masks, by the gradient that was there before, as SET's
    and GraNet's authors do; what is dropped is chosen by weights that are one step older.

    Decisions of ours: no noise on what is dropped (ties go to the weight that lies first); a layer without a gradient
    in this step keeps its mask.

    Attributes:
        until: T_end, as a share of the training.
        fraction: α, what a layer exchanges in the beginning.
        decay: ``cosine``, or ``constant`` for f(t) = α.
        distribution: of the density to the layers, from the start to the end.
        initial: the first active weights: ``random`` as in the paper, or the ``magnitude`` of a pretrained model's.
    """

    fraction: float = 0.3
    decay: Literal["cosine", "constant"] = "cosine"
    distribution: Distribution = "erk"
    initial: Initial = "random"

    name: ClassVar[str] = "rigl"
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(0 <= self.fraction <= 1, "fraction", "a share of the weights, 0 to 1")
        self.require(self.decay in ("cosine", "constant"), "decay", "cosine or constant")
        self.require(self.initial in get_args(Initial), "initial", "random or magnitude")

    def planned(self, step: int) -> float:
        """Always the same."""
        return self.density

    def start(self, context: Context) -> None:
        """Random masks, or the largest weights, with the distribution's number in every layer."""
        context.masks.start(self.initial, self.distribution, self.density, seed=context.seed)

    def rate(self, step: int) -> float:
        """Share f of its weights that every layer exchanges."""
        return self.fraction if self.decay == "constant" else cosine(step, end=self.last, first=self.fraction)

    def update(self, context: Context) -> None:
        """Exchange the smallest weights of every layer."""
        for name, have in context.masks.counts.items():
            gradient = context.gradient(name)
            if gradient is not None:
                drop_and_grow(context.masks, name, int(self.rate(context.step) * have), largest(gradient))
