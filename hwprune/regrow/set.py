"""SET: sparse evolutionary training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from hwprune.regrow._base import Context
from hwprune.regrow.drop_grow import drop_and_grow
from hwprune.regrow.ranking import random_k
from hwprune.regrow.rigl import RigL


@dataclass(frozen=True, kw_only=True)
class SET(RigL):
    """RigL's exchange with growth at random, which needs no gradient of what is not there.

    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
    network science", Nature Communications 2018 (arXiv 1707.04780). They exchange ζ = 0.3 at the end of every epoch,
    the smallest positive and the largest negative weights each by themselves. Here both are ranked together by
    magnitude and the share falls along a cosine, as in the comparison of Evci et al. 2020; ``decay="constant"`` and an
    epoch's steps as the interval give the first paper's schedule.

    Attributes:
        fraction: ζ.
    """

    name: ClassVar[str] = "set"
    needs_gradients: ClassVar[bool] = False

    def update(self, context: Context) -> None:
        """Exchange the smallest weights of every layer for others at random."""
        for name, have in context.masks.counts.items():
            grow = partial(random_k, key=context.key(name))
            drop_and_grow(context.masks, name, int(self.rate(context.step) * have), grow)
