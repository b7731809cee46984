"""First-order Taylor saliency at the weights that make a channel, or that read it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hwprune.network.network import ChannelGroup

from ._base import Criterion, first_order, members_of, nothing_to_judge


class TaylorWeight(Criterion):
    """``|Σ w·∂L/∂w|`` over the weights of a channel.

    Molchanov et al., CVPR 2019, eq. 8, without the square. Without normalisation, as in HALP, over the filters
    and biases that make the channel; with it, over the weights of the layers that read the channel. A filter
    behind a normalisation can be scaled without changing anything, so that its own Σ w·∂L/∂w is always zero.
    Coupled channels: one signed sum over all members, then the absolute value.
    """

    name = "taylor-weight"
    needs_gradients = True

    def score(self, group: ChannelGroup, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`Criterion.score`."""
        normalised = any(member.role == "norm" for member in group.members)
        members = members_of(group, "in" if normalised else "out", gradients)
        if not members:
            raise nothing_to_judge(group, self, f"no layer that {'reads' if normalised else 'makes'} it has a gradient")
        return first_order(members, parameters, gradients)
