"""Random flips and shifts of training images."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset


class Augmented(Dataset[Any]):
    """An image data set with a random mirror image and a random shift by up to 1/8 of the size.

    What happens to a sample depends on (seed, epoch, index) only: not on who loads it, nor when.

    Args:
        dataset: of ``(image (C, H, W), label)``.
        seed: of the run.
        epoch: number of the epoch.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self._dataset, self._seed, self._epoch = dataset, seed, epoch

    def __len__(self) -> int:
        """As many as the data set it wraps."""
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """The sample, flipped and shifted; what is shifted in is the mean colour (0 after normalisation)."""
        image, label = self._dataset[index]
        random = np.random.default_rng((self._seed, self._epoch, index))
        height, width = image.shape[-2:]
        up, left = (int(random.integers(0, 2 * (size // 8) + 1)) for size in (height, width))
        padded = functional.pad(image, (width // 8, width // 8, height // 8, height // 8))
        image = padded[..., up : up + height, left : left + width]
        return (image.flip(-1) if random.random() < 0.5 else image), label
