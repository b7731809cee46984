"""He et al.'s residual networks for CIFAR-10, and the splits that benchmarks use.

The networks are those of arXiv 1512.03385, section 4.2, with shortcuts of kind A. ``$CIFAR10`` is the folder of the
parquet files; of the training file, the first ``$CIFAR10_ROWS`` images are trained on (at most 45,000), and of the last
5,000 the first ``$CIFAR10_VALIDATION`` are the validation split.
"""

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HELD_OUT = 45_000
SHIFT = 4  # pixels


class Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x):
        """Images or maps, (N, C, H, W)."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class ResNet(nn.Module):
    """Three stages, each of twice as many channels as the one before."""

    def __init__(self, blocks, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(before, after, stride), *(Block(after, after, 1) for _ in range(blocks - 1)))
            for before, after, stride in ((width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2))
        )
        self.linear = nn.Linear(4 * width, 10)

    def forward(self, x):
        """Images or maps, (N, C, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


resnet20, resnet56 = partial(ResNet, 3, 16), partial(ResNet, 9, 16)
wide8 = partial(ResNet, 1, 32)  # can be cut in steps of 16 channels


def images(name, start, rows):
    """Decoded and normalised images, (N, 3, 32, 32), and their classes, (N,)."""
    table = pyarrow.parquet.read_table(Path(os.environ["CIFAR10"]) / f"cifar10-{name}.parquet").slice(start, rows)
    pictures = [np.asarray(Image.open(io.BytesIO(image))) for image in table["image"].to_pylist()]
    values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    values = (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return values, torch.tensor(table["label"].to_pylist())


def training_images():
    return images("train", 0, min(HELD_OUT, int(os.environ.get("CIFAR10_ROWS", HELD_OUT))))


def validation_images():
    return images("train", HELD_OUT, int(os.environ.get("CIFAR10_VALIDATION", 5_000)))


def test_images():
    return images("test", 0, 10_000)


def shifted(batch):
    """Mirrored and shifted at random, each image by itself."""
    count, places = len(batch), torch.arange(32)
    flip = torch.rand(count) < 0.5
    rows, columns = (torch.randint(0, 2 * SHIFT + 1, (count, 1)) + places for _ in range(2))
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    padded = functional.pad(batch, [SHIFT] * 4)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Images(Dataset):
    """Decoded once, kept in memory; training images are mirrored and shifted."""

    def __init__(self, values, labels, train):
        self._values, self._labels, self._train = values, labels.tolist(), train

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        image = self._values[index]
        return (shifted(image[None])[0] if self._train else image), self._labels[index]


def cifar10():
    """Training images and the validation split, for ``hwprune compress``; the test set is not read."""
    return Images(*training_images(), train=True), Images(*validation_images(), train=False)
