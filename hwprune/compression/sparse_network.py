"""A network with zeros among its weights, as many as are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hwprune.compression.config import CompressConfig
from hwprune.network.surgery import copied
from hwprune.regrow import NM, Recovery, SparseMasks, layer_counts, prune_and_recover, sparse_plus_rank_one
from hwprune.regrow.rank_one import LAYERS
from hwprune.regrow.ranking import top_k_per_row
from hwprune.regrow.weights import magnitude

RECOVERABLE = "recoverable"
_BY_LAYER = frozenset({"rigl", "set", "srigl", "iee"})  # rules that share weights out to layers by ERK


@dataclass(frozen=True)
class SparseNetwork:
    """A network some of whose weights are zero, or were replaced by the mean of a filter.

    Attributes:
        model: of the same architecture as the one that was made sparse.
        masks: over it; which weights stay.
        recovery: the means that stand for the others; None if those are zero.
    """

    model: nn.Module
    masks: SparseMasks
    recovery: Recovery | None = None

    @property
    def exported(self) -> nn.Module:
        """The form in which what was pruned is zero; computes the same up to rounding."""
        return self.model if self.recovery is None else sparse_plus_rank_one(self.model, self.recovery)

    @property
    def kept(self) -> dict[str, int]:
        """Masked weight → how many of its elements are not zero in :attr:`exported`."""
        return self.masks.nonzeros() if self.recovery is None else self.masks.counts

    @property
    def densities(self) -> dict[str, float]:
        """Masked weight → share of its elements that is not zero."""
        return {name: count / self.masks.active[name].numel() for name, count in self.kept.items()}

    @property
    def sparsity(self) -> float:
        """Share of zeros among all masked weights."""
        return 1 - sum(self.kept.values()) / self.masks.total

    def facts(self) -> dict[str, Any]:
        """What the result says of it."""
        return {
            "sparsity": self.sparsity,
            "weights": self.masks.total,
            "zeros": self.masks.total - sum(self.kept.values()),
            "densities": self.densities,
            "left_out": dict(self.masks.left_out),
        }


def masks_over(model: nn.Module, config: CompressConfig) -> SparseMasks:
    """Masks over what the configured rule makes sparse, everything active.

    Raises:
        ModelError: there is nothing to mask, or a parameter that cannot be.
    """
    if config.sparsify == "nm":
        n, m = config.block
        return SparseMasks(model, exclude=config.stay_dense or (), refuses=NM(steps=1, n=n, m=m).refuses)
    return SparseMasks(model, exclude=left_dense(model, config))


def left_dense(model: nn.Module, config: CompressConfig) -> list[str]:
    """Patterns of names: those that were asked for, and weights that recovery by means cannot stand for.

    These are all but those of torch's own convolutions and linear layers.
    """
    if config.sparsify != RECOVERABLE:
        return list(config.stay_dense or ())
    layers = {id(module.weight) for module in model.modules() if type(module) in LAYERS}
    others = (name for name, value in model.named_parameters() if value.ndim >= 2 and id(value) not in layers)
    return [*(config.stay_dense or ()), *others]


def thinned(model: nn.Module, count: int, config: CompressConfig) -> SparseNetwork:
    """A copy of which at most ``count`` masked weights are left, the largest, as the configured rule would keep them.

    Zeros stay zeros. A constant fan-in stays one; of a pattern N:M no block gets more weights. Of a network without
    zeros, as many of each layer are left as the rule would leave.

    Args:
        model: left as it is.
        count: of weights that are not zero.
        config: names the rule.
    """
    model = copied(model)
    masks = masks_over(model, config)
    if config.sparsify == RECOVERABLE:
        if count >= masks.total:
            return SparseNetwork(model, masks)
        masks.keep_largest_of_each(layer_counts("uniform", masks.shapes, count / masks.total))
        return SparseNetwork(model, masks, prune_and_recover(masks))
    masks.active = {name: weight.parameter.detach() != 0 for name, weight in masks.weights.items()}
    have = sum(masks.counts.values())
    if count < have == masks.total and config.sparsify in _BY_LAYER:
        masks.keep_largest_of_each(layer_counts("erk", masks.shapes, count / have))
    elif count < have and config.sparsify == "srigl":
        masks.active = {name: _even(masks, name, count / have) for name in masks.weights}
    elif count < have:
        masks.keep_largest(count)
    masks.apply()
    return SparseNetwork(model, masks)


def _even(masks: SparseMasks, name: str, part: float) -> Tensor:
    """The mask with this part of every neuron's fan-in."""
    weight, active = masks.weights[name], masks.active[name]
    rows = weight.layout.rows(active)
    fan_in = int(part * int(rows.sum(1).max()))
    kept = top_k_per_row(weight.layout.rows(magnitude(weight.parameter)), rows.sum(1).clamp_max(fan_in), rows)
    return weight.layout.weight(kept, tuple(active.shape))
