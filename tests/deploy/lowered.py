"""Networks in which one layer cannot be rounded, and data for them; written for no other purpose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hwprune.training import Data


class Loud(nn.Module):
    """Two branches of one network; what the second one makes is scaled up, and down again by who reads it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.plain = nn.Conv2d(8, 8, 3, padding=1)
        self.loud = nn.Conv2d(8, 8, 1)
        self.soft = nn.Conv2d(8, 8, 1)
        self.leave = nn.Linear(8, 4)
        with torch.no_grad():
            self.loud.weight.mul_(scale)
            self.loud.bias.mul_(scale)
            self.soft.weight.div_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        x = torch.relu(self.plain(x)) + self.soft(self.loud(x))
        return self.leave(x.mean((2, 3)))


class Outlier(nn.Module):
    """One channel between the hidden layers is huge and nearly all thrown away; the rest then shares few steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.wide = nn.Linear(32, 32)
        self.narrow = nn.Linear(32, 32)
        self.last = nn.Linear(32, 4)
        with torch.no_grad():
            self.wide.weight[5] *= 3000
            self.narrow.weight[:, 5] /= 3000

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.tanh(self.narrow(self.wide(x)))
        return self.last(x)


class Told(TensorDataset):
    """Remembers which samples were asked for."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.seen: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.seen.append(index)
        return super().__getitem__(index)


def labelled(model: nn.Module, *shape: int, train: int = 60, validation: int = 300) -> Data:
    """Noise, and what the model says of it: a model that is right about everything."""
    generator = torch.Generator().manual_seed(7)
    sets = []
    for count in (train, validation):
        inputs = torch.randn(count, *shape, generator=generator)
        with torch.no_grad():
            sets.append(Told(inputs, model(inputs).argmax(1)))
    return Data(train=sets[0], validation=sets[1])
