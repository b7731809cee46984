"""Small models of several kinds, data for them, and a loop that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 4
Batch = tuple[Tensor, Tensor]


class Convolutions(nn.Module):
    """Plain, grouped, depthwise and transposed convolutions, batch norm, a linear layer."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, groups=2)
        self.depthwise = nn.Conv2d(12, 12, 2, groups=12)
        self.transposed = nn.ConvTranspose2d(12, 8, (2, 1), groups=2)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.gelu(self.depthwise(functional.relu(self.grouped(x))))
        return self.fc(self.transposed(x).mean((2, 3)))


class Attention(nn.Module):
    """An embedding, attention with its joint projection, layer norm, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(functional.gelu(self.hidden(x))).mean(1)


def convolutions(seed: int = 0, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return Convolutions(norm)


def attention(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Attention()


MODELS: dict[str, Callable[..., nn.Module]] = {"convolutions": convolutions, "attention": attention}


def batches(kind: str, count: int, *, size: int = 8, seed: int = 0) -> list[Batch]:
    """The class can be learnt from the input."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        labels = torch.randint(CLASSES, (size,), generator=generator)
        if kind == "attention":
            inputs = torch.randint(11, (size, 5), generator=generator)
            inputs[:, 0] = labels
        else:
            inputs = torch.randn(size, 4, 7, 7, generator=generator)
            inputs[torch.arange(size), labels] += 1
        found.append((inputs, labels))
    return found


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1, amsgrad=True),
}


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    return (batch[0].to(dtype) if batch[0].is_floating_point() else batch[0]), batch[1]


def learn(model: nn.Module, batch: Batch) -> Tensor:
    """Forward and backward; returns the loss."""
    inputs, labels = cast(batch, next(model.parameters()).dtype)
    loss = functional.cross_entropy(model(inputs), labels)
    loss.backward()
    return loss.detach()


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: Any, data: Iterable[Batch]) -> Iterator[int]:
    """Train; gives the number of steps after each, with the gradients still there."""
    for done, batch in enumerate(data, start=1):
        learn(model, batch)
        optimizer.step()
        pruner.step()
        yield done
        optimizer.zero_grad()


def moments_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What the optimizers of these tests are known to keep per element."""
    known = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    return {key: value for key, value in optimizer.state.get(parameter, {}).items() if key in known}
