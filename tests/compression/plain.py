"""A network without batch norm or dropout, and data that may fail on the way, as a user would name them."""

from __future__ import annotations

import os
from typing import Any

import tiny
import torch
from torch import nn
from torch.utils.data import Dataset

from hwprune.errors import DataError


class Plain(nn.Module):
    """With an auxiliary head, which answers in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.third, self.fc, self.beside = nn.Conv2d(24, 16, 3, 2, 1), nn.Linear(16, 3), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> Any:
        inner = self.second(self.first(x).relu()).relu()
        logits = self.fc(self.third(inner).relu().mean((2, 3)))
        return (logits, self.beside(inner.mean((2, 3)))) if self.training else logits


class Failing(Dataset[Any]):
    """Ends the process of rank ``FAIL_RANK`` (killed or with an error, ``FAIL``) at its sample number ``FAIL_AT``."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset, self.read = dataset, 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        here, when = os.environ.get("FAIL_RANK"), int(os.environ.get("FAIL_AT", "0"))
        if os.environ.get("RANK") == here and self.read == when:
            if os.environ["FAIL"] == "killed":
                os.kill(os.getpid(), 9)
            raise DataError("row 7 is damaged", hint="mend it")
        return self.dataset[index]


def build() -> nn.Module:
    torch.manual_seed(3)
    return Plain()


def data() -> tuple[Dataset[Any], Dataset[Any]]:
    training, validation = tiny.data()
    return Failing(training), validation
