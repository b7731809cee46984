"""Awkward modules: grouped convolutions, padding, and rearranged channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .handwritten import case, channels, ends, image, parts, runs


@case(
    image(),
    cuttable={
        "a": channels(2, "", {"+a +mix -head": runs(2, 2)}),
        "b": channels(3, "", {"+b": runs(3, 2), "+mix -head": runs(3, 2, start=4)}),
    },
    frozen=ends("a b", "head"),
)
class GroupsAcrossJoin(nn.Module):
    """A convolution in groups of two reads two tensors that were joined; each fills whole groups."""

    sizes = 4, 6

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, size, 3) for size in self.sizes)
        self.mix, self.head = nn.Conv2d(10, 10, 1, groups=5), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(torch.cat([self.a(x), self.b(x)], 1)).relu())


@case(
    image(),
    cuttable={
        "a": channels(2, "", {"+a +mix -head": runs(2, 2)}),
        "b": channels(2, "", {"+b": [[1, 2], [3, 4]], "+mix -head": [[6, 7], [8, 9]]}),
    },
    frozen={**ends("a b", "head"), "a#2": "its 2 channels can only go together"},
)
class GroupsAstrideJoin(GroupsAcrossJoin):
    """The middle group reads the last channel of one tensor and the first of the other."""

    sizes = 5, 5


@case(image(), frozen={**ends("stem", "head"), "stem": "its 12 channels can only go together"})
class TwoGroupings(nn.Module):
    """The same channels in thirds, then in halves: every third meets a half that meets the next third."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)
        self.thirds, self.halves = nn.Conv2d(12, 12, 1, groups=3), nn.Conv2d(12, 12, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.halves(self.thirds(self.stem(x)).relu()).relu())


@case(
    image(),
    cuttable={"stem": channels(6, "+stem", {"+deep -head": runs(6, 2)})},
    frozen=ends("stem", "head"),
)
class DepthMultiplier(nn.Module):
    """A depthwise convolution makes two channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.stem(x).relu()).relu())


@case(
    image(),
    cuttable={"stem": channels(3, "", {"+stem up.weight:0": runs(3, 4), "up.bias:0 -head": runs(3, 2)})},
    frozen=ends("stem", "head"),
)
class GroupedTransposed(nn.Module):
    """A transposed convolution, in three groups, from four channels to two each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 12, 3), nn.ConvTranspose2d(12, 6, 2, 2, groups=3)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.stem(x).relu()).relu())


@case(
    image(),
    cuttable={"stem": channels(8, "+stem -a", {"+b ~norm -head": range(8)}), "a": channels(12, "+a -b")},
    frozen={**ends("stem", "head"), "b": "channels added by padding (constant_pad_nd in the model itself)"},
)
class PaddedShortcut(nn.Module):
    """The shortcut of the CIFAR ResNets, with all its zeros at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 1)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 8)) + self.norm(self.b(self.a(x).relu()))
        return self.head(x.relu().mean((2, 3)))


@case(
    image(),
    cuttable={
        "stem": channels(3, "groups:0", {"+stem +first": runs(3, 4), "+deep -head": parts(3, 4)}),
    },
    frozen=ends("stem", "head"),
)
class ShuffledGroups(nn.Module):
    """A channel shuffle behind a grouped convolution: whole groups go, and the shuffle has fewer of them."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 3
        self.stem, self.first = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1, groups=self.groups)
        self.deep, self.head = nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).relu())
        batch, width, *size = x.shape
        x = x.view(batch, self.groups, width // self.groups, *size).transpose(1, 2).reshape(x.shape)
        return self.head(self.deep(x).relu())


@case(
    image(),
    cuttable={
        "stem": channels(4, "", {"+stem": parts(4, 3), "-mid": runs(4, 3)}),
        "mid": channels(4, "", {"+mid": parts(4, 3), "-head": runs(4, 3)}),
    },
    frozen=ends("stem", "head"),
)
class ShuffledThirds(nn.Module):
    """A channel shuffle with nothing in groups around it, by hand and by torch: the thirds shrink alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 4, 1)
        self.shuffle = nn.ChannelShuffle(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.view(x.shape[0], 3, x.shape[1] // 3, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        return self.head(self.shuffle(self.mid(x).relu()))


PIXELS = {
    "stem": channels(6, "+stem", {"-mid": runs(6, 4)}),
    "mid": channels(4, "-head", {"+mid": runs(4, 4)}),
}


@case(image(), cuttable=PIXELS, frozen=ends("stem", "head"))
class Pixels(nn.Module):
    """Space to channels and back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(24, 16, 1), nn.Conv2d(4, 4, 1)

    def down(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, 2)

    def up(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.mid(self.down(self.stem(x))).relu()))


@case(image(), cuttable=PIXELS, frozen=ends("stem", "head"))
class PixelsByViews(Pixels):
    """The same by views; where channels are split, forward infers how many there are."""

    def down(self, x: Tensor) -> Tensor:
        batch, width, height, length = x.shape
        x = x.view(batch, width, height // 2, 2, length // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(batch, 4 * width, height // 2, length // 2)

    def up(self, x: Tensor) -> Tensor:
        batch, _, height, length = x.shape
        x = x.view(batch, -1, 2, 2, height, length).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, -1, 2 * height, 2 * length)


@case(image(), cuttable=PIXELS, frozen=ends("stem", "head"))
class PixelsByDivision(PixelsByViews):
    """Where channels are split, forward computes how many there are."""

    def up(self, x: Tensor) -> Tensor:
        batch, width, height, length = x.shape
        x = x.view(batch, width // 4, 2, 2, height, length).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, width // 4, 2 * height, 2 * length)


@case(image(), cuttable={"stem": channels(4, "-head", {"+stem": runs(4, 2)})}, frozen=ends("stem", "head"))
class Maxout(nn.Module):
    """The larger one of every two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x.view(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:]).amax(2))


@case(
    image(),
    cuttable={"stem": channels(8, "+stem", {"-head": range(7, -1, -1)})},
    frozen=ends("stem", "head"),
)
class Mirrored(nn.Module):
    """Channels in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def moved(self, x: Tensor) -> Tensor:
        return x.flip(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.moved(self.stem(x)).relu())


@case(
    image(),
    cuttable={"stem": channels(4, "", {"+stem -head": [[0, 7], [1, 6], [2, 5], [3, 4]]})},
    frozen=ends("stem", "head"),
)
class MirroredSum(Mirrored):
    """Every channel meets its mirror image, so pairs go."""

    def moved(self, x: Tensor) -> Tensor:
        return x + x.flip(1).sigmoid()


@case(
    image(),
    frozen={**ends("stem", "head"), "stem": "channels are moved by a fixed offset (roll in the model itself)"},
)
class Rolled(Mirrored):
    """Channels two places further."""

    def moved(self, x: Tensor) -> Tensor:
        return x.roll(2, 1)


@case(
    image(),
    frozen={
        **ends("stem", "head"),
        "stem": "channels are picked by their positions (index in the model itself)",
        "input of head": "reads the result of relu in the model itself, whose size is fixed (convolution in head)",
    },
)
class Permuted(Mirrored):
    """Channels in an order that is written into the code."""

    def moved(self, x: Tensor) -> Tensor:
        return x[:, torch.tensor([3, 1, 0, 2, 7, 5, 6, 4])]
