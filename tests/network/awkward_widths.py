"""Awkward modules: code that looks at widths, so that one is another's, or that holds a number which only looks alike.

Two layers that are cut to the same width hide it; cut to two widths, such a model fails or takes another way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .awkward_sequences import by_head
from .handwritten import case, channels, ends, image, runs, tokens

DIFFERS = "cutting it fails: the smaller network differs from the original with those channels switched off"
INVALID = "' is invalid for input of size"


class IfOnWidth(nn.Module):
    """What is computed depends on how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def chosen(self, width: int) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.chosen(x.shape[1]):
            x = x.relu() * 2
        return self.head(self.deep(x).relu())


@case(
    image(),
    cuttable={"deep": channels(6, "+deep -head")},
    frozen={**ends("stem", "head"), "stem": DIFFERS},
)
class IfEven(IfOnWidth):
    def chosen(self, width: int) -> bool:
        return width % 2 == 0


@case(
    image(),
    cuttable={"deep": channels(6, "+deep -head")},
    frozen={**ends("stem", "head"), "stem": DIFFERS},
)
class IfNotNarrow(IfOnWidth):
    def chosen(self, width: int) -> bool:
        return width >= 3


@case(image(), frozen={**ends("left right", "head"), "left": DIFFERS, "right": DIFFERS})
class IfEqualWidths(nn.Module):
    """Two layers make equally many channels, and something happens only then."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        if left.shape[1] == right.shape[1]:
            left = left.relu()
        return self.head(torch.cat([left, right], 1))


@case(image(), frozen={**ends("stem", "head"), "stem": INVALID, "mix": INVALID})
class ViewedAsInput(nn.Module):
    """The sizes of what comes in are told to a view of what goes out, as in many attention blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        batch, width, height, length = x.shape
        y = self.mix(x).view(batch, width, height * length).softmax(-1)
        return self.head(y.view(batch, width, height, length))


WEIGHT = "cutting it fails: forward of the smaller network fails: RuntimeError: Invalid channel dimensions (in head)"


@case(image(), frozen={**ends("stem", "head"), "stem": WEIGHT, "mix": WEIGHT})
class TakenAsMany(nn.Module):
    """Of one layer's channels, as many are taken as another one has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.mix(x)[:, : x.shape[1]])


@case(
    image(),
    cuttable={"b": channels(4, "+b -tail", {"~norm": range(7, 11)})},
    frozen={**ends("a b", "head tail"), "a": "taken apart at a fixed position (split_with_sizes in the model itself)"},
)
class JoinedAndSplit(nn.Module):
    """Two tensors are joined, normalised together, and taken apart by the sizes that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 7, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(11)
        self.head, self.tail = nn.Conv2d(7, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a(x), self.b(x)
        a, b = self.norm(torch.cat([a, b], 1)).relu().split([a.shape[1], b.shape[1]], 1)
        return self.head(a), self.tail(b)


@case(
    tokens(),
    cuttable={
        "embed": channels(8, "+embed -qkv +out -head"),
        "qkv": channels(4, "", {"+qkv": by_head(4, 3), "-out": runs(4, 3)}),
    },
    frozen=ends("embed", "head", flat=True),
)
class OtherFour(nn.Module):
    """There are four heads, which forward computes; another number, of something else, happens to be four as well."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = 4
        self.embed, self.qkv = nn.Linear(5, 8), nn.Linear(8, 36)
        self.out, self.head = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, _ = x.shape
        qkv = self.qkv(x)
        qkv = qkv.view(batch, length, 3, qkv.shape[-1] // 9, 3)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
