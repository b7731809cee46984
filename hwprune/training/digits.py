"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from hwprune.training.arrays import Arrays
from hwprune.training.data import Data
from hwprune.training.images import ImageDataset, Preprocessing
from hwprune.training.split import stratified_split


def load_digits(input_shape: Sequence[int], seed: int) -> Data:
    """1797 grey 8×8 images of 10 classes, scaled up to ``input_shape``; never mirrored, for a mirrored 2 is none."""
    raw = datasets.load_digits()
    images: NDArray[np.uint8] = np.round(raw.images * (255 / 16)).astype(np.uint8)
    preprocessing = Preprocessing.of(input_shape)
    train, validation = stratified_split(raw.target.tolist(), seed)
    pictures = Arrays(images[..., None], "digits")
    return Data(
        train=ImageDataset(pictures, raw.target, train, preprocessing),
        validation=ImageDataset(pictures, raw.target, validation, preprocessing),
        classes=10,
        preprocessing={**preprocessing.to_dict(), "class_names": [str(name) for name in raw.target_names]},
    )
