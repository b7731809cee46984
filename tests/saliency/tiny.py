"""Tiny models wired up as channel groups by hand, so that nothing here depends on the tracer."""

import numpy as np
import torch
from torch import nn

from hwprune.network.network import ChannelGroup, Member, Network


def member(tensor, dim, role, channels, k=1):
    """Positions 0…channels·k − 1, k neighbours per channel."""
    return Member(tensor, dim, role, np.arange(channels * k, dtype=np.int64).reshape(channels, k))


def norm_members(name, channels, k=1):
    return tuple(member(f"{name}.{part}", 0, "norm", channels, k) for part in PARTS)


PARTS = ("weight", "bias", "running_mean", "running_var")


def network(*groups):
    return Network(layers=(), groups=groups, input_shape=(2, 3, 5, 5), output_shape=(2, 2), total_parameters=0)


class Gate(nn.Module):
    """Multiplies every channel by one: the gradient of the ones is the first-order change of the loss."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = torch.ones(1, channels, 1, 1, requires_grad=True)

    def forward(self, x):
        return x * self.alpha


class Residual(nn.Module):
    """Two convolutions with batch norm that add up (group ``body``), and a wide one without (group ``plain``)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)
        self.body_gate, self.plain_gate = Gate(4), Gate(6)
        with torch.no_grad():
            for bn in (self.bn1, self.bn2):
                bn.weight.copy_(torch.randn(4))
                bn.bias.copy_(torch.randn(4))

    def forward(self, x):
        x = self.body_gate(self.bn1(self.conv1(x)))
        x = x + self.body_gate(self.bn2(self.conv2(x)))
        x = self.plain_gate(self.plain(x.relu()))
        return self.head(x.square().mean(dim=(2, 3)))

    def groups(self):
        body = (
            member("conv1.weight", 0, "out", 4),
            *norm_members("bn1", 4),
            member("conv2.weight", 1, "in", 4),
            member("conv2.weight", 0, "out", 4),
            *norm_members("bn2", 4),
            member("plain.weight", 1, "in", 4),
        )
        plain = (
            member("plain.weight", 0, "out", 6),
            member("plain.bias", 0, "out", 6),
            member("head.weight", 1, "in", 6),
        )
        frozen = ChannelGroup("head", 2, (member("head.weight", 0, "out", 2),), frozen="model output")
        return network(ChannelGroup("body", 4, body), ChannelGroup("plain", 6, plain), frozen)


def backward(model, seed=0):
    """Fresh gradients of a cross entropy on random inputs."""
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    x = torch.randn(8, 3, 5, 5, generator=generator)
    y = torch.randint(0, 2, (8,), generator=generator)
    nn.functional.cross_entropy(model(x), y).backward()
