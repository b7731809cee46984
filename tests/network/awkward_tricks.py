"""Awkward modules: operators along the channels, channels in the batch, windows, experts, writing in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .awkward_widths import DIFFERS
from .handwritten import case, channels, ends, image, parts, runs, tokens


class Between(nn.Module):
    """Something happens between two convolutions."""

    made: int = 8  # channels that the first makes
    read: int = 8  # channels that the second reads

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, self.made, 3), nn.Conv2d(self.read, 4, 1)

    def changed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.changed(self.stem(x)))


@case(
    image(),
    frozen={**ends("stem", "head"), "stem": "pooled or resized along this dimension (avg_pool3d in norm)"},
)
class LocalResponse(Between):
    """Every channel is divided by its neighbours (AlexNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(3)

    def changed(self, x: Tensor) -> Tensor:
        return self.norm(x)


@case(
    image(),
    frozen={
        **ends("stem", "head"),
        "stem": "a convolution slides along this dimension (convolution in slide)",
        "slide": "a channel is picked by its position (select in the model itself)",
        "input of slide": "the result of unsqueeze in the model itself, whose size is fixed (convolution in slide)",
    },
)
class SlidingGate(Between):
    """A convolution of three neighbouring channels says how much of each goes on (ECA)."""

    def __init__(self) -> None:
        super().__init__()
        self.slide = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def changed(self, x: Tensor) -> Tensor:
        return x * self.slide(x.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]


@case(image(), frozen={**ends("stem", "head"), "stem": DIFFERS})
class ScaledByWidth(Between):
    """Divided by a number that depends on how many channels there are."""

    def changed(self, x: Tensor) -> Tensor:
        return x / x.shape[1] ** 0.5


@case(image(), cuttable={"stem": channels(8, "+stem", {"-head": parts(8, 2)})}, frozen=ends("stem", "head"))
class Repeated(Between):
    read = 16

    def changed(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2, 1, 1)


@case(image(), cuttable={"stem": channels(4, "-head", {"+stem": parts(4, 2)})}, frozen=ends("stem", "head"))
class CopiedHalf(Between):
    """The first half is overwritten by the second, then only the first is read."""

    read = 4

    def changed(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        x[:, :half].copy_(x[:, half:].sigmoid())
        return x[:, :half]


@case(
    image(),
    cuttable={
        "stem": channels(2, "-shared", {"+stem": parts(2, 4)}),
        "shared": channels(5, "+shared", {"-head": parts(5, 4)}),
    },
    frozen=ends("stem", "head"),
)
class SharedOverQuarters(Between):
    """Quarters of the channels become images of their own, and pass one layer."""

    read = 20

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2, 5, 1)

    def changed(self, x: Tensor) -> Tensor:
        batch, _, height, length = x.shape
        x = self.shared(x.view(batch * 4, -1, height, length)).relu()
        return x.view(batch, -1, height, length)


@case(
    image(),
    cuttable={"stem": channels(8, "+stem -head")},
    frozen={
        **ends("stem", "head"),
        "each": "reduced over the channels (sum in the model itself)",
        "input of each": "reads the result of view in the model itself, whose size is fixed (convolution in each)",
    },
)
class EveryChannelAlone(Between):
    """Every channel becomes an image of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Conv2d(1, 4, 1)

    def changed(self, x: Tensor) -> Tensor:
        batch, width, height, length = x.shape
        x = self.each(x.view(batch * width, 1, height, length)).sigmoid()
        return x.view(batch, width, -1, height, length).sum(2)


@case(image(), cuttable={"stem": channels(8, "+stem", {"-head": runs(8, 9)})}, frozen=ends("stem", "head"))
class Unfolded(nn.Module):
    """Windows of nine pixels, all channels of them in a row."""

    size = 9

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * self.size, 4)

    def windows(self, x: Tensor) -> Tensor:
        return F.unfold(x, 3).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.windows(self.stem(x).relu()))


@case(image(), cuttable={"stem": channels(8, "+stem", {"-head": runs(8, 4)})}, frozen=ends("stem", "head"))
class UnfoldedTwice(Unfolded):
    """Windows of four pixels, cut out one dimension after the other."""

    size = 4

    def windows(self, x: Tensor) -> Tensor:
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5)
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1)


@case(
    image(),
    cuttable={"stem": channels(8, "+stem transform:0"), "transform": channels(6, "transform:1 -head")},
    frozen=ends("stem", "head"),
)
class FixedTransform(nn.Module):
    """A matrix that is not trained, as of a cosine transform."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(6, 4)
        self.register_buffer("transform", torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.stem(x).relu().mean((2, 3)) @ self.transform).relu())


@case(
    tokens(),
    cuttable={"stem": channels(8, "+stem first.weight:0 first.bias:0 first.weight:1 -head")},
    frozen=ends("stem", "head", flat=True),
)
class TwoNames(nn.Module):
    """One module under two names, and twice in a row under each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for layer in (self.first, self.second, self.second):
            x = layer(x).relu()
        return self.head(x)


@case(tokens(), cuttable={"stem": channels(8, "+stem -head")}, frozen=ends("stem", "head", flat=True))
class TurnedInPlace(nn.Module):
    """Dimensions change places, appear and disappear in the tensor itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Conv1d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x.unsqueeze_(1).transpose_(2, 3).relu_()
        x.squeeze_(1)
        return self.head(x)


@case(
    tokens(),
    cuttable={"up": channels(16, "+up -down"), "embed": channels(8, "+embed -up +down -head")},
    frozen=ends("embed", "head", flat=True),
)
class Checkpointed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + checkpoint(lambda y: self.down(self.up(y).relu()), x, use_reentrant=False))


@case(
    tokens(),
    cuttable={
        "experts.0.0": channels(16, "+experts.0.0 -experts.0.2"),
        "experts.1.0": channels(16, "+experts.1.0 -experts.1.2"),
    },
    frozen={
        **ends("embed", "head", flat=True),
        "embed": "no rule for the operator aten.index.Tensor (index in the model itself)",
        "route": "reduced over the channels (argmax in the model itself)",
        "input of experts.0.0": "the result of index in the model itself, whose size is fixed (addmm in experts.0.0)",
        "input of experts.1.0": "the result of index in the model itself, whose size is fixed (addmm in experts.1.0)",
        "experts.0.2": "no rule for the operator aten.index_put_.default (index_put in the model itself)",
        "experts.1.2": "no rule for the operator aten.index_put_.default (index_put in the model itself)",
        "input of head": "whose size is fixed (addmm in head)",
    },
)
class RoutedExperts(nn.Module):
    """Every token goes to the expert that likes it most; inside, experts have widths of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.route, self.head = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        chosen = self.route(x).argmax(-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            y[chosen == number] = expert(x[chosen == number])
        return self.head(y)


@case(
    tokens(),
    cuttable={"stem": channels(8, "+stem experts:2"), "experts": channels(6, "experts:1 -head")},
    frozen=ends("stem", "head", flat=True),
)
class MappedExperts(nn.Module):
    """Three linear layers at once, by ``vmap`` over one tensor of weights; their results are added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(6, 4)
        self.experts = nn.Parameter(torch.randn(3, 6, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(torch.vmap(lambda weight: F.linear(x, weight))(self.experts).relu().sum(0))


@case(
    image(),
    frozen={
        **ends("left right", "head"),
        "left": "no rule for the operator aten._trilinear.default (_trilinear in pair)",
        "right": "no rule for the operator aten._trilinear.default (_trilinear in pair)",
        "pair": "no rule for the operator aten._trilinear.default (_trilinear in pair)",
        "input of head": "whose size is fixed (addmm in head)",
    },
)
class BilinearPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3)
        self.pair, self.head = nn.Bilinear(8, 6, 7, bias=False), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pair(self.left(x).mean((2, 3)), self.right(x).mean((2, 3))).relu())


@case(
    tokens(),
    cuttable={"left": channels(8, "+left -head")},
    frozen={
        **ends("left right", "head", flat=True),
        "right": "reduced over the channels (amax in the model itself)",
    },
)
class ProductTurnedInPlace(nn.Module):
    """Two activations are multiplied over tokens; both sides of the product have channels, and change places in it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 8), nn.Linear(5, 6), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        product = self.left(x).transpose(1, 2) @ self.right(x)
        product.transpose_(1, 2)
        return self.head(product.amax(1))
