"""A task of one's own: detection of coloured shapes with a one-stage detector without anchors.

Everything that hwprune needs is here: the model (``build``), the data sets (``data``), and the task
(``loss`` and ``evaluate``)::

    hwprune compress --model detection.py:build --data detection.py:data --task detection.py \
        --input-shape 1,3,96,96 --latency 0.6x --output run
"""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

metric = "F1 at IoU 0.5"
SIZE, STRIDE, CLASSES = 96, 8, 2  # discs and squares


def unit(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = unit(channels, channels), unit(channels, channels)

    def forward(self, x):
        return x + self.second(self.first(x))


class Detector(nn.Module):
    """Returns per 8x8 pixels: the logit of an object's centre, its box (left, top, right, bottom), its class."""

    def __init__(self, widths=(24, 48, 96)):
        super().__init__()
        stages, inputs = [], 3
        for width in widths:
            stages += [unit(inputs, width, stride=2), Residual(width)]
            inputs = width
        self.backbone, self.neck = nn.Sequential(*stages), unit(inputs, inputs)
        self.centre, self.box, self.kind = (nn.Conv2d(inputs, outputs, 1) for outputs in (1, 4, CLASSES))

    def forward(self, x):
        x = self.neck(self.backbone(x))
        return torch.cat([self.centre(x), self.box(x).exp(), self.kind(x)], dim=1)


def build():
    return Detector()


def shapes(count, seed):
    """Noisy images of one to three shapes, and per cell what :class:`Detector` is to return."""
    draw = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 3, SIZE, SIZE, generator=draw)
    cells = torch.zeros(count, 6, SIZE // STRIDE, SIZE // STRIDE)
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    for image, cell in zip(images, cells, strict=True):
        for _ in range(int(torch.randint(1, 4, (), generator=draw))):
            half = 6 + 10 * torch.rand((), generator=draw)
            left, top = half + (SIZE - 2 * half) * torch.rand(2, generator=draw)
            kind = int(torch.randint(CLASSES, (), generator=draw))
            away = torch.stack([x - left, y - top])
            inside = (away.norm(dim=0) if kind == 0 else away.abs().amax(0)) < half
            image[:, inside] += torch.rand(3, 1, generator=draw) + 0.2
            column, row = int(left // STRIDE), int(top // STRIDE)
            shift = torch.stack([left - STRIDE * (column + 0.5), top - STRIDE * (row + 0.5)])
            box = torch.cat([half - shift, half + shift]) / STRIDE  # from the middle of the cell, in cells
            cell[:, row, column] = torch.tensor([1.0, *box.clamp(min=0.1), kind])
    return TensorDataset(images, cells)


def data():
    return shapes(512, seed=0), shapes(96, seed=1)


def loss(model, batch):
    images, cells = batch
    found, there = model(images), cells[:, 0] > 0
    centre = functional.binary_cross_entropy_with_logits(
        found[:, 0], cells[:, 0], pos_weight=torch.tensor(10.0, device=found.device)
    )
    box = (found[:, 1:5].log() - cells[:, 1:5].log()).abs().mean(1)[there].mean()
    kind = functional.cross_entropy(found[:, 5:], cells[:, 5].long(), reduction="none")[there].mean()
    return centre + box + 0.2 * kind


def boxes(cells, kinds, score):
    """Corners in pixels, classes and scores of the local maxima of the scores."""
    highest = functional.max_pool2d(score[None], 3, 1, 1)[0] == score
    row, column = torch.nonzero(highest & (score > 0.5), as_tuple=True)
    left, top, right, bottom = STRIDE * cells[:, row, column]
    x, y = STRIDE * (column + 0.5), STRIDE * (row + 0.5)
    return torch.stack([x - left, y - top, x + right, y + bottom], 1), kinds[row, column], score[row, column]


def overlap(one, others):
    """Intersection over union of a box with others."""
    low, high = torch.maximum(one[:2], others[:, :2]), torch.minimum(one[2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    return common / ((one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - common)


def evaluate(predict):
    right = found_boxes = true_boxes = 0
    for images, cells in DataLoader(data()[1], batch_size=16):
        for found, wanted in zip(predict(images), cells, strict=True):
            corners, kinds, scores = boxes(found[1:5], found[5:].argmax(0), found[0].sigmoid())
            left, left_kinds, _ = boxes(wanted[1:5], wanted[5].long(), wanted[0])
            found_boxes, true_boxes = found_boxes + len(corners), true_boxes + len(left)
            for index in scores.argsort(descending=True):
                same = overlap(corners[index], left) * (left_kinds == kinds[index])
                if len(left) and same.max() >= 0.5:
                    keep = torch.arange(len(left)) != same.argmax()
                    left, left_kinds, right = left[keep], left_kinds[keep], right + 1
    return 2 * right / max(1, found_boxes + true_boxes)
