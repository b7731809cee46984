"""Scale of the normalisation layers as saliency."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hwprune.network.network import ChannelGroup

from ._base import Criterion, members_of, nothing_to_judge, per_channel


class BatchNormScale(Criterion):
    """``|γ|`` of the channel's normalisation (Liu et al., "Network Slimming", ICCV 2017).

    Coupled channels: the sum over their normalisation layers. γ is the parameter named ``weight``.
    """

    name = "bn-scale"
    needs_gradients = False

    def score(self, group: ChannelGroup, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Criterion.score`."""
        norms = members_of(group, "norm", parameters)
        scales = [member for member in norms if member.tensor.rpartition(".")[2] == "weight"]
        if not scales:
            raise nothing_to_judge(group, self, "it has no normalisation with a scale")
        return torch.stack([per_channel(m, parameters[m.tensor].detach().float().abs()) for m in scales]).sum(dim=0)
