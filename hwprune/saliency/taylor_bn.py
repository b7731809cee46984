"""First-order Taylor saliency at the normalisation layers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hwprune.network.network import ChannelGroup

from ._base import Criterion, first_order, members_of
from .taylor_weight import TaylorWeight


class TaylorBatchNorm(Criterion):
    """HALP's criterion: ``|Σ_layers (γ·∂L/∂γ + β·∂L/∂β)|``.

    Shen et al., NeurIPS 2022, eq. 5, after Molchanov et al., CVPR 2019 (who square where HALP takes the
    absolute value). Coupled channels (behind a residual addition) are summed with their sign over all
    their normalisation layers before the absolute value is taken. A group without a trainable affine
    normalisation is judged by :class:`TaylorWeight`, which estimates the same change of the loss.
    """

    name = "taylor-bn"
    needs_gradients = True

    def score(self, group: ChannelGroup, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Criterion.score`."""
        norms = members_of(group, "norm", gradients)
        if not norms:
            return TaylorWeight().score(group, parameters, gradients)
        return first_order(norms, parameters, gradients)
