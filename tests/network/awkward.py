"""Awkward modules, with the groups a person reads from them: layers shared, joined, tied, chosen, never called."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .handwritten import case, channels, ends, image, parts, tokens

UNUSED = "the forward pass of the example does not use it"


@case(
    image(),
    cuttable={
        "left": channels(12, "+left +right -shared"),
        "shared": channels(10, "+shared +third -head", {"-tail": range(10)}),
        "extra": channels(6, "+extra", {"-tail": range(10, 16)}),
    },
    frozen=ends("left right third extra", "head tail"),
)
class TwoPartners(nn.Module):
    """One layer runs twice: its first result is added to one thing, its second is joined to another."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.shared = nn.Conv2d(12, 10, 1)
        self.third, self.extra = nn.Conv2d(3, 10, 1), nn.Conv2d(3, 6, 1)
        self.head, self.tail = nn.Conv2d(10, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        once = self.shared(self.left(x).relu()) + self.third(x)
        twice = torch.cat([self.shared(self.right(x).relu()), self.extra(x)], 1)
        return self.head(once.relu()), self.tail(twice.relu())


@case(
    tokens(),
    cuttable={"stem": channels(8, "+stem first.weight:0 first.weight:1 first.bias:0 second.bias:0 -head")},
    frozen=ends("stem", "head", flat=True),
)
class TiedSquare(nn.Module):
    """Two layers in a row own one square matrix: what it makes is what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (nn.Linear(5, 8), *_squares(8, 2), nn.Linear(8, 4))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.stem(x).relu()).relu()).relu())


def _squares(size: int, count: int) -> list[nn.Linear]:
    return [nn.Linear(size, size) for _ in range(count)]


@case(
    torch.arange(14).reshape(2, 7) % 11,
    cuttable={"words#2": channels(8, "words.weight:1 -up +down"), "up": channels(16, "+up -down")},
    frozen={"words": "rows of an embedding are looked up by position (embedding in words)"},
)
class TiedWords(nn.Module):
    """The output projection is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.project = nn.Linear(8, 11)
        self.project.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        return self.project(x + self.down(self.up(x).relu()))


@case(
    tokens(),
    cuttable={"stem": channels(8, "+stem encode.weight:1 bias:0 -head"), "encode": channels(6, "+encode")},
    frozen=ends("stem", "head", flat=True),
)
class TiedTransposed(nn.Module):
    """A decoder is the encoder's matrix, turned over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.encode, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(8, 4)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encode(self.stem(x).relu()).relu()
        return self.head(F.linear(hidden, self.encode.weight.t(), self.bias).relu())


@case(image(), cuttable={"stem": channels(8, "+stem", {"-head": parts(8, 3)})}, frozen=ends("stem", "head"))
class SameTwice(nn.Module):
    """One tensor is joined to itself, with another form of it in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([x, x.relu(), x], 1))


@case(
    image(),
    cuttable={
        "stem": channels(8, "+stem bias:0 scale:1 matrix:0"),
        "matrix": channels(6, "matrix:1 shift:0 -head"),
    },
    frozen=ends("stem", "head"),
)
class BareParameters(nn.Module):
    """Biases, scales and a matrix that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(6, 4)
        self.bias, self.scale = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.matrix, self.shift = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = (self.stem(x) + self.bias).relu() * self.scale
        return self.head((x.mean((2, 3)) @ self.matrix + self.shift).relu())


@case(
    image(),
    cuttable={
        "stem": channels(8, "+stem +same -same -coarse -shortcut"),
        "coarse": channels(10, "+coarse +shortcut -head"),
    },
    frozen={**ends("stem", "head"), "never": UNUSED},
)
class IfOnShape(nn.Module):
    """Shortcuts are chosen by looking at shapes; the channels that are compared go alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.never = nn.Conv2d(8, 8, 1)
        self.coarse, self.shortcut = nn.Conv2d(8, 10, 3, 2, 1), nn.Conv2d(8, 10, 1, 2)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.same(x)
        x = (x if y.shape == x.shape else self.never(x)) + y
        y = self.coarse(x)
        if y.shape[2:] != x.shape[2:]:
            x = self.shortcut(x)
        return self.head((x + y).relu())


@case(
    image(),
    cuttable={
        "stem": channels(8, "+stem -branch0 -branch1 -branch2"),
        "branch0": channels(5, "+branch0", {"-head": range(5)}),
        "branch1": channels(6, "+branch1", {"-head": range(5, 11)}),
        "branch2": channels(7, "+branch2", {"-head": range(11, 18)}),
    },
    frozen=ends("stem", "head"),
)
class ListOfBranches(nn.Module):
    """Forward walks a plain Python list; the layers in it are attributes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(18, 4, 1)
        self.branches = [nn.Conv2d(8, 5 + i, 1) for i in range(3)]
        for i, branch in enumerate(self.branches):
            setattr(self, f"branch{i}", branch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(torch.cat([branch(x) for branch in self.branches], 1))


@case(
    image(),
    frozen={
        **ends("stem", "head"),
        "stem": "multiplied with a tensor that is not a parameter or buffer, whose size is fixed "
        "(convolution in the model itself)",
        "input of head": "reads the result of relu in the model itself, whose size is fixed (convolution in head)",
    },
)
class ListOnly(nn.Module):
    """A layer that only a plain list holds is none of the model's: its weights are in no ``state_dict``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 4, 1)
        self.hidden = [nn.Conv2d(8, 6, 1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden[0](self.stem(x).relu()).relu())


@case(
    image(),
    cuttable={"stem": channels(8, "+stem -head")},
    frozen={**ends("stem", "head"), "extra": UNUSED, "spare.0": UNUSED},
)
class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.extra, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.Conv2d(8, 4, 1)
        self.spare = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu())


@case(image(), cuttable={"a": channels(8, "+a +b +c -head")}, frozen=ends("a b c", "head"))
class StackedBranches(nn.Module):
    """Branches are stacked, taken apart again, and reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 8, 3) for _ in range(3))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([self.a(x), self.b(x), self.c(x)], 1)
        first, second, third = stacked.unbind(1)
        return self.head(first * second.sigmoid() + third + stacked.amax(1))


@case(
    image(),
    cuttable={
        "a": channels(8, "+a +b +c -squeeze -head", {"+choose": parts(8, 3)}),
        "squeeze": channels(4, "+squeeze -choose"),
    },
    frozen=ends("a b c", "head"),
)
class SelectiveKernel(nn.Module):
    """One layer makes a weight for every branch and channel, branch by branch; a softmax runs over the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 8, size, padding=size // 2) for size in (1, 3, 5))
        self.squeeze, self.choose = nn.Linear(8, 4), nn.Linear(4, 24)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.a(x), self.b(x), self.c(x)], 1)
        pooled = branches.sum(1).mean((2, 3))
        weights = self.choose(self.squeeze(pooled).relu()).view(x.shape[0], 3, -1).softmax(1)
        return self.head((branches * weights[..., None, None]).sum(1))


@case(
    image(),
    cuttable={"a": channels(8, "+a +b -left -right")},
    frozen={
        **ends("a b", "left right"),
        "alpha": "a channel is picked by its position (select in the model itself)",
        "input of alpha": "whose size is fixed (bmm in the model itself)",
    },
)
class CrossStitch(nn.Module):
    """Two tasks mix their features by a small matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.alpha = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(2, 2))
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mixed = torch.einsum("ij,jbchw->ibchw", self.alpha, torch.stack([self.a(x), self.b(x)]).relu())
        return self.left(mixed[0]), self.right(mixed[1])


@case(
    image(),
    cuttable={"stem": channels(8, "+stem encode.weight:1 -head"), "encode": channels(6, "+encode")},
    frozen=ends("stem", "head"),
)
class TiedConvolutions(nn.Module):
    """A transposed convolution has the weight of the convolution that it undoes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.encode, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(self.stem(x).relu()).relu()
        return self.head(F.conv_transpose2d(x, self.encode.weight).relu())


@case(
    image(),
    cuttable={
        "fine": channels(8, "+fine -coarse -level0"),
        "coarse": channels(12, "+coarse -level1"),
        "level1": channels(6, "+level0 +level1 -head"),
    },
    frozen=ends("fine", "head"),
)
class Pyramid(nn.Module):
    """Levels are added from the top down, and share one head; the coarse one comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.level0, self.level1, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(12, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [self.fine(x).relu()]
        levels.append(self.coarse(levels[-1]).relu())
        outputs: list[Tensor] = []
        for number, level in reversed(list(enumerate(levels))):
            level = getattr(self, f"level{number}")(level)
            outputs.append(level if not outputs else level + F.interpolate(outputs[-1], scale_factor=2))
        return [self.head(one) for one in outputs]
