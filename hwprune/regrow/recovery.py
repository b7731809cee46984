"""Pruned weights replaced by their mean, which takes no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hwprune.errors import InputError
from hwprune.regrow.masks import SparseMasks

Means = Literal["filter", "layer", "none"]


@dataclass(frozen=True)
class Recovery:
    """Which weights stay, and the one value that stands for all that do not.

    w = M·(w - μ) + μ·1: a sparse weight, and one of rank one per filter.

    Attributes:
        masks: weight → which elements stay, bool, in its shape.
        means: weight → μ, one value for every filter, shape (filters,); zeros for plain pruning.
    """

    masks: dict[str, Tensor]
    means: dict[str, Tensor]

    def state_dict(self) -> dict[str, Any]:
        """Copies of masks and means."""
        return {
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "means": {name: mean.clone() for name, mean in self.means.items()},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Recovery:
        """From :meth:`state_dict`."""
        return cls(dict(state["masks"]), dict(state["means"]))


@torch.no_grad()
def prune_and_recover(masks: SparseMasks, means: Means = "filter") -> Recovery:
    """Replace all that the masks prune by its mean, at once and without training.

    The recovery of Liu & Liu, "Pruning On-the-Fly" (arXiv 2212.12651), after their abstract; whether their mean is a
    filter's or a layer's it does not say. Weights whose mean is zero gain nothing by it. Batch norms can be
    recalibrated afterwards (:func:`hwprune.training.batchnorm.recalibrate_batchnorm`); do that without recovery, too,
    to see what is due to which.

    Args:
        masks: chosen (``masks.keep_largest(…)``, ``masks.keep_largest_of_each(…)``) and not yet applied, over a plain
            model, whose weights are changed in place.
        means: of the pruned weights of every ``filter`` (output channel) or of a ``layer``; ``none`` prunes to zero.

    Raises:
        InputError: unknown means; nothing is pruned; a weight is not finite.
    """
    if means not in get_args(Means):
        raise InputError(f"means is {means!r}", hint="it must be filter, layer or none")
    if all(bool(mask.all()) for mask in masks.active.values()):
        raise InputError(
            "there is nothing to prune: all weights are active", hint="choose masks first: masks.keep_largest(count)"
        )
    masks.follow()
    found = {}
    for name, weight in masks.weights.items():
        if not bool(weight.parameter.isfinite().all()):
            raise InputError(f"{name} is not finite", hint="load weights without NaN and infinite values")
        rows, gone = weight.layout.rows(weight.parameter.detach()), ~weight.layout.rows(masks.active[name])
        sums, counts = torch.where(gone, rows, 0).double().sum(1), gone.sum(1)
        if means == "layer":
            sums, counts = sums.sum().expand_as(sums), counts.sum().expand_as(counts)
        mean = (sums / counts.clamp_min(1)).to(rows.dtype) * (means != "none")
        weight.parameter.copy_(
            weight.layout.weight(torch.where(gone, mean.unsqueeze(1), rows), tuple(weight.parameter.shape))
        )
        found[name] = mean
    return Recovery({name: mask.clone() for name, mask in masks.active.items()}, found)
