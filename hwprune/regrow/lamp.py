"""LAMP: magnitudes that can be compared between layers."""

from __future__ import annotations

import torch
from torch import Tensor


def lamp_scores(weight: Tensor) -> Tensor:
    """Layer-adaptive magnitude-based pruning scores.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021 (arXiv 2010.07611), equation 4:
    w_u² / Σ_{v ≥ u} w_v², over the weights of a layer in ascending order of w². The largest weight of every layer has
    the score 1, so no layer is emptied before all have come down to one weight. The paper leaves the order of equal
    weights open; here the one that lies first counts as the larger.

    Args:
        weight: of one layer, any shape, finite. What is pruned is zero in it, and changes no other score.

    Returns:
        float64, in the weight's shape; zeros for a layer of zeros.
    """
    descending = weight.detach().double().square().flatten().sort(descending=True, stable=True)
    of_larger = descending.values.cumsum(0)
    scores = torch.zeros_like(of_larger)
    scores[descending.indices] = descending.values / of_larger.where(of_larger > 0, 1.0)
    return scores.view(weight.shape)
