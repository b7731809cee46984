"""Magnitude of the filters that make a channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hwprune.network.network import ChannelGroup

from ._base import Criterion, members_of, nothing_to_judge, per_channel


class MagnitudeL1(Criterion):
    """``Σ|w|`` over the filters of a channel (Li et al., ICLR 2017); biases do not count.

    Coupled channels: the norm of the concatenation of all their filters.
    """

    name = "magnitude-l1"
    needs_gradients = False

    def score(self, group: ChannelGroup, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Criterion.score`."""
        return _filter_sums(self, group, parameters, power=1)


class MagnitudeL2(Criterion):
    """``√Σw²`` over the filters of a channel; biases do not count.

    Coupled channels: the norm of the concatenation of all their filters.
    """

    name = "magnitude-l2"
    needs_gradients = False

    def score(self, group: ChannelGroup, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Criterion.score`."""
        return _filter_sums(self, group, parameters, power=2).sqrt()


def _filter_sums(criterion: Criterion, group: ChannelGroup, parameters: Mapping[str, Tensor], power: int) -> Tensor:
    filters = [m for m in members_of(group, "out", parameters) if parameters[m.tensor].ndim > 1]
    if not filters:
        raise nothing_to_judge(group, criterion, "no weights make these channels")
    terms = [per_channel(m, parameters[m.tensor].detach().float().abs() ** power) for m in filters]
    return torch.stack(terms).sum(dim=0)
