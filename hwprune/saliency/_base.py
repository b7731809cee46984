"""What every criterion does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from hwprune.errors import InputError
from hwprune.network.network import ChannelGroup, Member


class Criterion(ABC):
    """Worth of every channel of a group on one minibatch.

    Attributes:
        name: as given on the command line.
        needs_gradients: whether :meth:`score` reads ``gradients``.
    """

    name: str
    needs_gradients: bool

    @abstractmethod
    def score(self, group: ChannelGroup, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
        """Saliency of every channel.

        Args:
            group: the channels and their positions in the parameters.
            parameters: parameter name → value, as in ``model.named_parameters()``.
            gradients: parameter name → gradient of the loss on one minibatch; parameters without one are absent.

        Returns:
            Shape (channels,), float32, not negative, outside any autograd graph.

        Raises:
            InputError: the group has nothing this criterion could judge it by.
        """


def per_channel(member: Member, values: Tensor) -> Tensor:
    """Sum of ``values`` over everything that belongs to a channel.

    Args:
        member: says which positions of which dimension belong to which channel.
        values: one per element of the member's tensor, in its shape.

    Returns:
        Shape (channels,).
    """
    others = [dim for dim in range(values.ndim) if dim != member.dim]
    sums = values.sum(dim=others) if others else values
    index = torch.tensor(member.index, device=sums.device)
    return sums[index].sum(dim=1)


def first_order(members: list[Member], parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
    """``|Σ w·∂L/∂w|`` over all elements of all members that belong to a channel.

    The sum is signed; the absolute value comes last. To first order this is how much the loss changes when
    the channel is set to zero.

    Args:
        members: at least one, each with a gradient.
        parameters: parameter name → value.
        gradients: parameter name → gradient.

    Returns:
        Shape (channels,).
    """
    terms = [per_channel(m, parameters[m.tensor].detach().float() * gradients[m.tensor].float()) for m in members]
    return torch.stack(terms).sum(dim=0).abs()


def members_of(group: ChannelGroup, role: str, tensors: Mapping[str, Tensor]) -> list[Member]:
    """Members with this role whose tensor is among ``tensors``."""
    return [member for member in group.members if member.role == role and member.tensor in tensors]


def nothing_to_judge(group: ChannelGroup, criterion: Criterion, lacks: str) -> InputError:
    """The error for a group that a criterion cannot judge."""
    return InputError(
        f"criterion {criterion.name} cannot judge channel group {group.name!r}: {lacks}",
        hint="use magnitude-l2, which needs only weights, or train (unfreeze) the layers that are to be cut",
    )
