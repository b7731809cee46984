"""Awkward modules: weights that are computed, einsum, buffers, and norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .handwritten import case, channels, ends, image, parts, runs, tokens


@case(
    image(),
    cuttable={"stem": channels(8, "+stem mixer:1"), "mixer": channels(6, "mixer:0 gain:0 -head")},
    frozen=ends("stem", "head"),
)
class EinsumMixer(nn.Module):
    """A pointwise convolution and a scale, both written as sums over letters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 4, 1)
        self.mixer, self.gain = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bchw,dc->bdhw", self.stem(x).relu(), self.mixer)
        return self.head(torch.einsum("bdhw,d->bdhw", x, self.gain).relu())


@case(
    tokens(),
    cuttable={
        "stem": channels(2, "blocks:1", {"+stem": parts(2, 4)}),
        "blocks": channels(3, "blocks:2", {"-head": parts(3, 4)}),
    },
    frozen=ends("stem", "head", flat=True),
)
class EinsumBlocks(nn.Module):
    """Four blocks of a matrix; how many is written into the code, so their sizes go, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(12, 4)
        self.blocks = nn.Parameter(torch.randn(4, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.einsum("bthi,hio->btho", x.view(*x.shape[:2], 4, -1), self.blocks)
        return self.head(x.reshape(*x.shape[:2], -1).relu())


@case(
    image(),
    cuttable={"right": channels(6, "+right -head")},
    frozen={**ends("left right", "head"), "left": "reduced over the channels (mean in the model itself)"},
)
class EinsumOfActivations(nn.Module):
    """Two feature maps are multiplied and summed over space; one side's channels are averaged, the other's read."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        gram = torch.einsum("bct,bdt->bcd", self.left(x).flatten(2), self.right(x).flatten(2))
        return self.head(gram.mean(1))


@case(
    tokens(),
    cuttable={
        "stem": channels(8, "+stem base.weight:1 down:1"),
        "base": channels(6, "+base up:0 -head"),
        "up": channels(4, "up:1 down:0"),
    },
    frozen=ends("stem", "head", flat=True),
)
class LowRank(nn.Module):
    """An update of low rank is added to a weight before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.base, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 4)
        self.down, self.up = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        weight = self.base.weight + 0.5 * (self.up @ self.down)
        return self.head(F.linear(x, weight, self.base.bias).relu())


class Wrapped(nn.Module):
    """A layer whose weight is computed, between two that are plain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(self.wide, 4)
        self.turn = self.parametrized(nn.Linear(8, self.wide))

    wide = 6

    def parametrized(self, layer: nn.Linear) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turn(self.stem(x[:, 0]).relu()).relu())


@case(
    tokens(),
    cuttable={"stem": channels(8, "+stem turn.parametrizations.weight.original1:1")},
    frozen={
        "input of stem": "whose size is fixed (addmm in stem)",
        "head": "the model's output",
        "turn": "a filter that is masked with zeros has no direction to normalise (_weight_norm_interface in turn.",
    },
)
class WeightNorm(Wrapped):
    def parametrized(self, layer: nn.Linear) -> nn.Module:
        return parametrizations.weight_norm(layer)


@case(
    tokens(),
    cuttable={"stem": channels(8, "+stem turn.parametrizations.weight.0.base:0")},
    frozen={
        "input of stem": "whose size is fixed (addmm in stem)",
        "head": "the model's output",
        "turn": "hwprune has no rule for the operator aten.tril.default (tril in turn.",
        "turn#2": "multiplied with the result of mul in turn.parametrizations.weight.0, whose size is fixed (mm",
        "turn#3": "combined with the result of addmm in turn, whose size is fixed (addmm in turn)",
        "input of head": "reads the result of relu in the model itself, whose size is fixed (addmm in head)",
    },
)
class Orthogonal(Wrapped):
    """All rows depend on each other; the matrix that torch multiplies them with has a row for each input."""

    def parametrized(self, layer: nn.Linear) -> nn.Module:
        return parametrizations.orthogonal(layer)


@case(
    tokens(),
    frozen={
        "input of stem": "whose size is fixed (addmm in stem)",
        "head": "the model's output",
        "stem": "hwprune has no rule for the operator aten.mv.default (mv in turn.",
        "turn": "hwprune has no rule for the operator aten.mv.default (mv in turn.",
    },
)
class SpectralNorm(Wrapped):
    """A weight is divided by its largest singular value, to which every element contributes."""

    def parametrized(self, layer: nn.Linear) -> nn.Module:
        return parametrizations.spectral_norm(layer)


class Exponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


@case(
    tokens(),
    cuttable={
        "stem": channels(8, "+stem turn.parametrizations.weight.original:1"),
        "turn": channels(6, "turn.parametrizations.weight.original:0 turn.bias:0 -head"),
    },
    frozen={"input of stem": "whose size is fixed (addmm in stem)", "head": "the model's output"},
)
class PositiveWeight(Wrapped):
    """What is masked with zeros becomes ones; but what comes in is zero then, and what goes out is not read."""

    def parametrized(self, layer: nn.Linear) -> nn.Module:
        return parametrize.register_parametrization(layer, "weight", Exponential())


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.t()


@case(
    tokens(),
    cuttable={
        "stem": channels(
            8,
            "+stem turn.parametrizations.weight.original:0 turn.parametrizations.weight.original:1 turn.bias:0 -head",
        )
    },
    frozen={"input of stem": "whose size is fixed (addmm in stem)", "head": "the model's output"},
)
class SymmetricWeight(Wrapped):
    """A matrix plus itself turned over: what it reads is what it makes."""

    wide = 8

    def parametrized(self, layer: nn.Linear) -> nn.Module:
        return parametrize.register_parametrization(layer, "weight", Symmetric())


class WithBuffers(nn.Module):
    """Something is done to every channel with numbers that are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.register_buffer("scale", torch.rand(8) + 0.5)
        self.register_buffer("shift", torch.randn(1, 8, 1, 1), persistent=False)

    def changed(self, x: Tensor) -> Tensor:
        return x * self.scale.view(-1, 1, 1) - self.shift

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.changed(self.stem(x)).relu())


SCALED = {"stem": channels(8, "+stem scale:0 shift:1 -head")}
case(image(), cuttable=SCALED, frozen=ends("stem", "head"))(WithBuffers)


@case(image(), cuttable=SCALED, frozen=ends("stem", "head"))
class DividedByBuffer(WithBuffers):
    """Features are standardised by remembered numbers; a masked channel is nothing divided by nothing."""

    def changed(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale[:, None, None]


class Blur(nn.Module):
    """Every channel is blurred by a fixed kernel, in as many groups as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.register_buffer("kernel", torch.rand(self.copies, 1, 3, 3))

    copies = 8

    def kernels(self, width: int) -> Tensor:
        return self.kernel

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(F.conv2d(x, self.kernels(x.shape[1]), groups=x.shape[1]))


case(image(), cuttable={"stem": channels(8, "+stem kernel:0 -head")}, frozen=ends("stem", "head"))(Blur)


@case(
    image(),
    frozen={
        **ends("stem", "head"),
        "stem": "the result of expand in the model itself, whose size is fixed (convolution in the model itself)",
        "input of head": "the result of convolution in the model itself, whose size is fixed (convolution in head)",
    },
)
class BlurExpanded(Blur):
    """One kernel, spread over however many channels there are."""

    copies = 1

    def kernels(self, width: int) -> Tensor:
        return self.kernel.expand(width, 1, 3, 3)


@case(
    image(),
    frozen={
        **ends("stem", "head"),
        "stem": "no rule for the operator aten.convolution.default (convolution in the model itself)",
        "make": "no rule for the operator aten.convolution.default (convolution in the model itself)",
        "input of head": "the result of view in the model itself, whose size is fixed (convolution in head)",
    },
)
class DynamicKernels(nn.Module):
    """A depthwise convolution whose weights are computed from its input, image by image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.make, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 72), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        batch, width, *size = x.shape
        kernels = self.make(x.mean((2, 3))).view(batch * width, 1, 3, 3)
        x = F.conv2d(x.reshape(1, batch * width, *size), kernels, padding=1, groups=batch * width)
        return self.head(x.view(batch, width, *size))


@case(
    tokens(),
    cuttable={"embed": channels(8, "+embed norm.weight:0 -up +down -head"), "up": channels(16, "+up -down")},
    frozen=ends("embed", "head", flat=True),
)
class WrittenOutNorm(nn.Module):
    """An RMS norm by hand: its mean runs over the channels that there are."""

    class Rms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(5, 8), self.Rms(), nn.Linear(8, 4)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(self.up(self.norm(x)).relu()))


@case(
    image(),
    cuttable={
        "stem": channels(3, "", {"+stem +norm -mid": runs(3, 4)}),
        "mid": channels(8, "+mid +spread -head"),
    },
    frozen=ends("stem", "head"),
)
class SeveralNorms(nn.Module):
    """A group norm of three groups, which go whole, and an instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12)
        self.mid, self.spread = nn.Conv2d(12, 8, 1), nn.InstanceNorm2d(8, affine=True)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spread(self.mid(self.norm(self.stem(x)).relu())).relu())


@case(
    image(),
    cuttable={"stem": channels(8, "+stem", {"~norm -head": runs(8, 9)})},
    frozen=ends("stem", "head"),
)
class NormOfPixels(nn.Module):
    """A batch norm behind a flat view: nine of its channels for each of the convolution's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm1d(72), nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x).relu().flatten(1)).relu())
