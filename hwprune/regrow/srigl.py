"""SRigL: a constant fan-in for every neuron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hwprune.regrow._base import Context
from hwprune.regrow.distribution import layer_counts
from hwprune.regrow.ranking import random_k, top_k, top_k_per_row
from hwprune.regrow.rigl import RigL
from hwprune.regrow.weights import magnitude


@dataclass(frozen=True, kw_only=True)
class SRigL(RigL):
    """RigL in which all active neurons of a layer read equally many inputs, and neurons with too little are ablated.

    Lasby et al., "Dynamic Sparse Training with Structured Sparsity", ICLR 2024 (arXiv 2305.02299), section 3.
    Per layer: the largest weights that would stay and, of those that are inactive, the ones with the largest gradients
    are salient; a neuron with fewer than γ times the fan-in of them is ablated; the others then share the layer's
    weights, ⌊nnz / neurons⌋ each. The smallest weights of the layer are dropped, and each neuron fills up to its fan-in
    where its own gradients are largest.

    The paper leaves these open; they are our decisions. Ablated neurons stay out: behind a batch norm a neuron of
    variance zero has gradients some hundred times too large, which would bring it back at once. So the fan-in never
    falls, and no neuron has more weights than it. The last layer, by the order of ``model.named_parameters()``, keeps
    all neurons. If a layer has fewer weights than neurons, some of its neurons start with one each. What
    the division leaves over is not used. Weights are not drawn anew for their smaller fan-in. A neuron is an output
    channel; of an embedding, a dimension.

    Attributes:
        salient: γ, the share of its fan-in that a neuron needs in salient weights.
    """

    salient: float = 0.3

    name: ClassVar[str] = "srigl"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(0 <= self.salient <= 1, "salient", "a share of the fan-in, 0 to 1")

    def start(self, context: Context) -> None:
        """Masks of constant fan-in, at random or of the largest weights."""
        masks, random = context.masks, self.initial == "random"
        for name, count in layer_counts(self.distribution, masks.shapes, self.density).items():
            shape, layout = masks.shapes[name], masks.weights[name].layout
            everything = torch.ones_like(layout.rows(masks.active[name]))
            size, most = layout.rows(magnitude(masks.weights[name].parameter)), min(count, len(everything))
            if random:
                neurons = random_k(everything[:, 0], most, context.key(name))
            else:
                neurons = top_k(size.sum(1), most, everything[:, 0])
            fan_in, rows = count // int(neurons.sum()), everything & neurons.unsqueeze(1)
            if not random:
                rows = top_k_per_row(size, fan_in * neurons, rows)
            for row in neurons.nonzero().squeeze(1).tolist() if random else ():
                rows[row] = random_k(everything[row], fan_in, f"{context.key(name)}/{row}")
            masks.active[name] = layout.weight(rows, shape)

    def update(self, context: Context) -> None:
        """Ablate, drop and grow, layer by layer."""
        masks = context.masks
        budget, *_, last_name = layer_counts(self.distribution, masks.shapes, self.density), *masks.active
        for name, weight in masks.weights.items():
            gradient = context.gradient(name)
            if gradient is None:
                continue
            rows = weight.layout.rows
            layer = _Layer(rows(magnitude(weight.parameter)), rows(gradient), rows(masks.active[name]))
            neurons = layer.active.any(1)
            exchanged = int(self.rate(context.step) * int(layer.active.sum()))
            if name != last_name:
                neurons = layer.worthy(neurons, exchanged, self.salient, budget[name])
            fan_in = min(budget[name] // max(1, int(neurons.sum())), layer.active.shape[1])
            masks.active[name] = weight.layout.weight(layer.exchange(neurons, exchanged, fan_in), masks.shapes[name])


@dataclass(frozen=True)
class _Layer:
    """One layer, a row per neuron: shape (neurons, inputs)."""

    magnitude: Tensor
    gradient: Tensor
    active: Tensor

    def worthy(self, neurons: Tensor, exchanged: int, share: float, budget: int) -> Tensor:
        """Which neurons stay, shape (neurons,): those with enough salient weights, and as many as are needed."""
        stay = top_k(self.magnitude, int(self.active.sum()) - exchanged, self.active)
        absent = ~self.active & neurons.unsqueeze(1)
        salient = stay | top_k(self.gradient, min(exchanged, int(absent.sum())), absent)
        having = salient.sum(1)
        least = max(1, int(share * int(self.active.sum(1).max())))
        # fewer neurons than this could not hold the layer's weights
        needed = max(1, -(-budget // self.active.shape[1]))
        enough = neurons & (having >= least)
        return (
            enough if int(enough.sum()) >= needed else top_k(having.float(), min(needed, int(neurons.sum())), neurons)
        )

    def exchange(self, neurons: Tensor, exchanged: int, fan_in: int) -> Tensor:
        """The new mask: every neuron that stays has ``fan_in`` weights."""
        mine = self.active & neurons.unsqueeze(1)
        stay = min(int(self.active.sum()) - exchanged, int(mine.sum()))
        kept = top_k(self.magnitude, stay, mine)
        free = ~kept & neurons.unsqueeze(1)
        return kept | top_k_per_row(self.gradient, fan_in - kept.sum(1), free)
