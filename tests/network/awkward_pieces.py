"""Awkward modules: channels taken apart, gated, reduced, written into, and moved to the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .handwritten import case, channels, ends, image, parts, tokens

SLICED = "taken apart at a fixed position (slice in the model itself)"
SPLIT = "taken apart at a fixed position (split_with_sizes in the model itself)"


@case(
    image(),
    cuttable={
        "stem#3": channels(6, "-c", {"+stem": range(7, 13)}),
        "a": channels(6, "+a +b +c -head"),
    },
    frozen={**ends("stem", "head"), "stem": SLICED, "stem#2": SLICED},
)
class SlicedUnequally(nn.Module):
    """Three pieces by slices; only the last one may shrink, for it has no end."""

    pieces: tuple[int, int, int] = 3, 4, 6

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, sum(self.pieces), 3), nn.Conv2d(6, 4, 1)
        self.a, self.b, self.c = (nn.Conv2d(size, 6, 1) for size in self.pieces)

    def taken(self, x: Tensor) -> tuple[Tensor, ...]:
        first, second, _ = self.pieces
        return x[:, :first], x[:, first : first + second], x[:, first + second :]

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.taken(self.stem(x).relu())
        return self.head((self.a(a) + self.b(b) + self.c(c)).relu())


@case(
    image(),
    cuttable={"a": channels(6, "+a +b +c -head")},
    frozen={**ends("stem", "head"), "stem": SLICED},
)
class SlicedByAccident(SlicedUnequally):
    """The pieces happen to be thirds and quarters of all, and could be meant so: none is taken for the last one."""

    pieces = 3, 5, 4


@case(
    image(),
    cuttable={"a": channels(6, "+a +b +c -head")},
    frozen={
        **ends("stem", "head"),
        "stem": SPLIT,
        "stem#2": SPLIT,
        "stem#3": "cutting it fails: forward of the smaller network fails: RuntimeError: split_with_sizes expects",
    },
)
class SplitByNumbers(SlicedUnequally):
    """The same pieces, all of their sizes written into the code."""

    def taken(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split([3, 4, 6], 1)


@case(
    image(),
    cuttable={
        "stem": channels(3, "-a sizes[0]:0", {"+stem": range(3)}),
        "stem#2": channels(4, "-b sizes[1]:0", {"+stem": range(3, 7)}),
        "stem#3": channels(6, "-c sizes[2]:0", {"+stem": range(7, 13)}),
        "a": channels(6, "+a +b +c -head"),
    },
    frozen=ends("stem", "head"),
)
class SplitByAttributes(SlicedUnequally):
    """The same pieces, whose sizes the module remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [3, 4, 6]

    def taken(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.sizes, 1)


@case(
    image(),
    cuttable={"a": channels(6, "+a +b -head")},
    frozen={
        **ends("stem", "head"),
        "stem": "every n-th channel is taken (slice in the model itself)",
        "input of a": "reads the result of slice in the model itself, whose size is fixed (convolution in a)",
        "input of b": "reads the result of slice in the model itself, whose size is fixed (convolution in b)",
    },
)
class EverySecond(nn.Module):
    """Even channels to one layer, odd ones to another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 4, 1)
        self.a, self.b = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((self.a(x[:, ::2]) + self.b(x[:, 1::2])).relu())


@case(image(), cuttable={"stem": channels(8, "-head", {"+stem": parts(8, 2)})}, frozen=ends("stem", "head"))
class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.glu(self.stem(x), 1))


@case(
    tokens(),
    cuttable={"embed": channels(8, "+embed -up +down -head"), "up": channels(12, "-down", {"+up": parts(12, 2)})},
    frozen=ends("embed", "head", flat=True),
)
class SwiGlu(nn.Module):
    """Both halves come from one layer, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = (nn.Linear(*sizes) for sizes in ((5, 8), (8, 24), (12, 8), (8, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        gate, value = self.up(x).chunk(2, -1)
        return self.head(x + self.down(F.silu(gate) * value))


@case(
    image(),
    cuttable={"stem": channels(8, "+stem -down +up -head"), "down": channels(4, "+down -up")},
    frozen=ends("stem", "head"),
)
class SqueezeAndView(nn.Module):
    """Squeeze and excitation, by ``view`` to two dimensions and back to four."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, width, _, _ = x.shape
        gate = self.up(self.down(self.pool(x).view(batch, width)).relu()).sigmoid()
        return self.head(x * gate.view(batch, width, 1, 1))


class Reduced(nn.Module):
    """Something is computed over all channels, and comes back to each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def over(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x * self.over(x).sigmoid())


@case(image(), frozen={**ends("stem", "head"), "stem": "reduced over the channels (mean in the model itself)"})
class MeanOverChannels(Reduced):
    def over(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


@case(image(), frozen={**ends("stem", "head"), "stem": "reduced over the channels (sum in the model itself)"})
class SumOverChannels(Reduced):
    def over(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)


@case(
    image(), frozen={**ends("stem", "head"), "stem": "every channel depends on the others (cumsum in the model itself)"}
)
class CumulativeSum(Reduced):
    def over(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


@case(
    image(),
    frozen={
        **ends("stem", "head"),
        "stem": "reduced over the channels (mean in the model itself)",
        "gate": "one channel is spread over several (mul in the model itself)",
        "input of gate": "reads the result of cat in the model itself, whose size is fixed (convolution in gate)",
    },
)
class SpatialAttention(Reduced):
    """A map of mean and maximum over channels, convolved (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def over(self, x: Tensor) -> Tensor:
        return self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))


@case(
    image(),
    cuttable={
        "stem": channels(8, "+stem norm.weight:0 norm.bias:0 -up +down -head"),
        "up": channels(16, "+up -down"),
    },
    frozen=ends("stem", "head"),
)
class ChannelsLast(nn.Module):
    """Linear layers on pixels: a permutation, a flat view, and both back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Conv2d(8, 4, 1)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, width, height, length = x.shape
        pixels = self.norm(x.permute(0, 2, 3, 1).reshape(-1, width))
        pixels = self.down(F.gelu(self.up(pixels)))
        return self.head(x + pixels.view(batch, height, length, -1).permute(0, 3, 1, 2))


@case(
    image(),
    cuttable={"stem#2": channels(5, "", {"+stem -head": range(3, 8)})},
    frozen={**ends("stem part", "head"), "stem": SLICED},
)
class AddedToSlice(nn.Module):
    """The first three channels get something added, in place; the others are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, :3] += self.part(x)
        return self.head(y.relu())


@case(image(), cuttable={"stem": channels(8, "+stem mask:0 -head")}, frozen=ends("stem", "head"))
class WhereMask(nn.Module):
    """A mask says channel by channel which of two things it becomes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.register_buffer("mask", torch.tensor([1, 0, 0, 1, 1, 0, 1, 0], dtype=torch.bool).view(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.where(self.mask, x.relu(), -x))
