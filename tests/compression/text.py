"""A text classifier of two inputs by name, and data for it; imports nothing of the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

INPUTS = "input_ids=1,12:int64<50;attention_mask=1,12:int64"


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        x = self.tokens(input_ids)
        x = self.norm(x + self.down(torch.relu(self.up(x))))
        mask = attention_mask[..., None].to(x.dtype)
        return {"loss": None, "logits": self.head((x * mask).sum(1) / mask.sum(1))}


class Sentences(Dataset[Any]):
    """Words of which the first five alone tell the class; the others, behind the mask, mislead."""

    def __init__(self, count: int, seed: int, *, named: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.named, self.labels = named, torch.arange(count) % 3
        self.ids = torch.randint(0, 16, (count, 12), generator=generator) + 16 * self.labels[:, None]
        self.ids[:, 5:] = torch.randint(0, 50, (count, 7), generator=generator)
        self.mask = (torch.arange(12) < 5).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        ids = self.ids[index]
        return ({"input_ids": ids, "attention_mask": self.mask} if self.named else (ids, self.mask)), self.labels[index]


def build() -> nn.Module:
    torch.manual_seed(3)
    return Text()


def data() -> tuple[Sentences, Sentences]:
    return Sentences(96, 0), Sentences(48, 1)


def tuples() -> tuple[Sentences, Sentences]:
    return Sentences(96, 0, named=False), Sentences(48, 1, named=False)
