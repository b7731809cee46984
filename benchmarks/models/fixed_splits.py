"""Data whose split does not depend on the seed of a run, so that runs with several seeds start from one network.

CIFAR-10 is read from ``$CIFAR10/cifar10-train.parquet`` and ``-test.parquet`` (columns ``image``: encoded bytes,
``label``); ``$CIFAR10_ROWS`` is how many training images are used, 50,000 if it is not set.
"""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch.utils.data import Dataset

from hwprune.training import load_data

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SHIFT = 4  # pixels


class Cifar10(Dataset):
    """Decoded once, kept in memory; training images are mirrored and shifted at random."""

    def __init__(self, path, rows, train):
        table = pyarrow.parquet.read_table(path).slice(0, rows)
        pictures = [np.asarray(Image.open(io.BytesIO(image))) for image in table["image"].to_pylist()]
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        self._images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        self._labels = table["label"].to_pylist()
        self._train = train

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        image = self._images[index]
        if self._train:
            if torch.rand(()) < 0.5:
                image = image.flip(-1)
            top, left = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
            image = torch.nn.functional.pad(image, [SHIFT] * 4)[:, top : top + 32, left : left + 32]
        return image, self._labels[index]


def cifar10():
    """CIFAR-10: its own training and test set."""
    folder, rows = Path(os.environ["CIFAR10"]), int(os.environ.get("CIFAR10_ROWS", 50_000))
    train = Cifar10(folder / "cifar10-train.parquet", rows, train=True)
    return train, Cifar10(folder / "cifar10-test.parquet", 10_000, train=False)


def digits():
    """scikit-learn's digits at 32x32, split by seed 0."""
    data = load_data("digits", input_shape=(1, 1, 32, 32), seed=0)
    return data.train, data.validation
