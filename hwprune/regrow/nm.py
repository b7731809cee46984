"""N:M sparsity: N of every M inputs in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hwprune.regrow._base import Context, Rule
from hwprune.regrow.ranking import top_k, top_k_per_row
from hwprune.regrow.schedule import cubic
from hwprune.regrow.weights import Weight, magnitude


@dataclass(frozen=True, kw_only=True)
class NM(Rule):
    """Of every M neighbouring input channels keep the N with the largest weights.

    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021 (arXiv 2104.08378), section 4: prune a trained
    network once by magnitude, then train it again with the mask fixed. Blocks lie along the input channels, for every
    output channel and kernel position by itself, which is how NVIDIA's 2:4 kernels read them. Layers whose input
    channels are no multiple of M stay dense, as in TensorRT, and so do embeddings, which are looked up.

    The gradual variant is our own: along Zhu & Gupta's cubic curve, the smallest of those weights go first that their
    blocks would lose anyway, so every block has at least N and in the end exactly N.

    Attributes:
        n: active weights of a block.
        m: size of a block.
        gradual: whether to prune step by step; otherwise everything is pruned before training starts.
        interval: steps between two updates.
        begin: share of the training before which nothing is pruned.
        until: share of the training at which every block has N.
    """

    n: int = 2
    m: int = 4
    gradual: bool = False
    interval: int = 100
    begin: float = 0.0
    until: float = 0.5

    name: ClassVar[str] = "nm"
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(self.m >= 2, "m", "a whole number of at least 2")
        self.require(1 <= self.n < self.m, "n", f"from 1 to {self.m - 1}")
        self.require(self.interval >= 1, "interval", "a whole number of at least 1")
        self.require(0 <= self.until <= 1, "until", "a share of the training, 0 to 1")
        self.require(0 <= self.begin <= self.until, "begin", "a share of the training, at most until")

    @property
    def last(self) -> int:
        """The step at which every block has N; 0 if that is so from the start."""
        return max(1, int(self.steps * self.until)) if self.gradual else 0

    def planned(self, step: int) -> float:
        """What the curve said at the last update."""
        return self._curve(step if step >= self.last else step - step % self.interval)

    def _curve(self, step: int) -> float:
        if not self.gradual:
            return self.n / self.m
        return cubic(step, begin=int(self.steps * self.begin), end=self.last, first=1.0, last=self.n / self.m)

    def refuses(self, weight: Weight) -> str:
        """Embeddings, and layers whose input channels are no multiple of M."""
        inputs = weight.layout.inputs(tuple(weight.parameter.shape))
        if weight.layout.lookup:
            return "an embedding is looked up, not multiplied"
        return f"its {inputs} input channels are no multiple of {self.m}" if inputs % self.m else ""

    def start(self, context: Context) -> None:
        """Everything is active, or N of every M."""
        if not self.gradual:
            self.update(context)

    def due(self, step: int) -> bool:
        """Every ``interval`` steps, and when every block is to have N."""
        begun = step >= int(self.steps * self.begin)
        return begun and step <= self.last and (step % self.interval == 0 or step == self.last)

    def update(self, context: Context) -> None:
        """Prune every layer to the density of this step."""
        for name, weight in context.masks.weights.items():
            rows = weight.layout.rows
            active = self._prune(rows(magnitude(weight.parameter)), rows(context.masks.active[name]), context.step)
            context.masks.active[name] = weight.layout.weight(active, context.masks.shapes[name])

    def _prune(self, magnitudes: Tensor, active: Tensor, step: int) -> Tensor:
        """The new mask, shape (neurons, fan-in): of what blocks cannot keep, the largest stay while there is room."""
        blocks, alive = magnitudes.reshape(-1, self.m), active.reshape(-1, self.m)
        kept = top_k_per_row(blocks, torch.full_like(blocks[:, 0], self.n, dtype=torch.long), alive)
        doomed = alive & ~kept
        room = int(blocks.numel() * self._curve(step) + 1e-6) - int(kept.sum())
        return (kept | top_k(blocks, min(room, int(doomed.sum())), doomed)).view_as(active)
