"""Networks nobody wrote: random graphs of the operations that couple channels."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import shuffle

FUNCTIONS = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "cat": lambda a, b: torch.cat([a, b], 1),
    "glu": lambda a: F.glu(a, 1),
    "shuffle": lambda a: shuffle(a, 2),
    "pool": lambda a: F.max_pool2d(a, 2),
    "up": lambda a: F.interpolate(a, scale_factor=2),
    "flip": lambda a: a.flip(1),
    "pad": lambda a: F.pad(a, (0, 0, 0, 0, 1, 2)),
    "pixels": lambda a: F.pixel_shuffle(a, 2),
}


class Excite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 4, 1)
        self.up = nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


def living(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


class RandomNetwork(nn.Module):
    """A stem, four to ten random operations on any earlier tensor, and a linear head on two of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        self.layers = nn.ModuleList()
        self.program: list[tuple] = []  # (module number or function name, positions of its inputs)
        self.sizes = [(3, 16)]  # channels, height of every tensor so far
        self.module(nn.Conv2d(3, 8, 3, padding=1), 0, (8, 16))
        for _ in range(self.random.randint(4, 10)):
            self.grow()
        self.ends = [len(self.sizes) - 1, self.random.randrange(1, len(self.sizes))]
        first, second = (self.sizes[end][0] for end in self.ends)
        self.head = nn.Linear(4 * first + second, 5)

    def module(self, layer: nn.Module, source: int, size: tuple[int, int]) -> None:
        self.layers.append(layer)
        self.program.append((len(self.layers) - 1, source))
        self.sizes.append(size)

    def function(self, name: str, size: tuple[int, int], *sources: int) -> None:
        self.program.append((name, *sources))
        self.sizes.append(size)

    def grow(self) -> None:
        source = self.random.randrange(1, len(self.sizes))
        channels, height = self.sizes[source]
        alike = [i for i, size in enumerate(self.sizes) if i and size == (channels, height)]
        level = [i for i, size in enumerate(self.sizes) if size[1] == height]
        even, wide = channels % 4 == 0, height >= 2
        multiplier = self.random.choice([1, 2])
        outputs = self.random.choice([4, 6, 8, 12])
        other = self.random.choice(level)
        choices = [
            lambda: self.module(
                nn.Conv2d(channels, outputs, 3, 2, 1, bias=False), source, (outputs, (height + 1) // 2)
            ),
            lambda: self.module(nn.Conv2d(channels, outputs, 3, 1, 1), source, (outputs, height)),
            lambda: self.module(nn.ConvTranspose2d(channels, outputs, 2, 2), source, (outputs, 2 * height)),
            lambda: self.module(living(nn.BatchNorm2d(channels)), source, (channels, height)),
            lambda: self.module(nn.ReLU(inplace=True), source, (channels, height)),
            lambda: self.module(nn.PReLU(channels), source, (channels, height)),
            lambda: self.module(
                nn.Conv2d(channels, channels * multiplier, 3, 1, 1, groups=channels),
                source,
                (channels * multiplier, height),
            ),
            lambda: even and self.module(nn.Conv2d(channels, 8, 3, 1, 1, groups=2), source, (8, height)),
            lambda: even and self.module(nn.GroupNorm(channels // 2, channels), source, (channels, height)),
            lambda: self.module(Excite(channels), source, (channels, height)),
            lambda: self.function("add", (channels, height), source, self.random.choice(alike)),
            lambda: self.function("mul", (channels, height), source, self.random.choice(alike)),
            lambda: self.function("cat", (channels + self.sizes[other][0], height), source, other),
            lambda: even and self.function("glu", (channels // 2, height), source),
            lambda: even and self.function("shuffle", (channels, height), source),
            lambda: wide and self.function("pool", (channels, height // 2), source),
            lambda: self.function("up", (channels, 2 * height), source),
            lambda: self.function("flip", (channels, height), source),
            lambda: self.function("pad", (channels + 3, height), source),
            lambda: even and self.function("pixels", (channels // 4, 2 * height), source),
        ]
        self.random.choice(choices)()

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for what, *sources in self.program:
            arguments = [values[source] for source in sources]
            # an inplace activation would change a tensor that is read again later: give it its own
            call = FUNCTIONS[what] if isinstance(what, str) else self.layers[what]
            values.append(call(*(argument.clone() for argument in arguments)))
        first, second = (values[end] for end in self.ends)
        return self.head(torch.cat([F.adaptive_avg_pool2d(first, 2).flatten(1), second.mean((2, 3))], 1))
