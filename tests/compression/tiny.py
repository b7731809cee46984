"""A network and data as a user would name them (``tiny.py:build``, ``tiny.py:data``); imports nothing of the tests."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Tiny(nn.Module):
    """A stem, a residual block with an inner width, a second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(24, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(32, 24, 1, bias=False), nn.BatchNorm2d(24))
        self.last = nn.Sequential(nn.Conv2d(24, 40, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(40), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(40, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        return self.fc(self.drop(self.last(x).mean((2, 3))))


def build() -> nn.Module:
    torch.manual_seed(3)
    return Tiny()


def data() -> tuple[TensorDataset, TensorDataset]:
    """Images whose class is how bright they are."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(72) % 3
    images = torch.randn(72, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)
    return TensorDataset(images[:48], labels[:48]), TensorDataset(images[48:], labels[48:])
