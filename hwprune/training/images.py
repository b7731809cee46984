"""Encoded images to normalised tensors of one size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from hwprune.errors import DataError, InputError

# The statistics of ImageNet, which almost every published network for RGB images was trained with.
_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY = (0.5,), (0.5,)
_CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input: ``(pixel / 255 − mean) / std``.

    The image is scaled until it covers the input (bilinear, antialiased) and what sticks out is cut off on both sides.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: in pixels.
        width: in pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, input_shape: Sequence[int]) -> Preprocessing:
        """For a network with this input shape (N, C, H, W): ImageNet's statistics for RGB, 0.5 for grey.

        Raises:
            InputError: the shape is not that of a batch of grey or RGB images.
        """
        if len(input_shape) != 4 or input_shape[1] not in (1, 3) or min(input_shape) < 1:
            raise InputError(
                f"input shape {tuple(input_shape)} is not that of images",
                hint="images need N,1,H,W or N,3,H,W; for anything else give the data as file.py:factory",
            )
        mean, std = _GREY if input_shape[1] == 1 else _RGB
        return cls(input_shape[1], input_shape[2], input_shape[3], mean, std)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Scaled and cropped, (C, H, W)."""
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode} (more than 8 bits per channel) is not supported")
        converted = image.convert("L" if self.channels == 1 else "RGB")
        fitted = ImageOps.fit(converted, (self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(fitted, dtype=np.uint8).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Float32 tensor of the same shape (C, H, W)."""
        mean, std = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (self.mean, self.std))
        return torch.from_numpy((pixels / np.float32(255) - mean) / std)

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "kind": "image",
            "color": "L" if self.channels == 1 else "RGB",
            "height": self.height,
            "width": self.width,
            "resize": "cover, bilinear, centre crop",
            "scale": 1 / 255,
            "mean": list(self.mean),
            "std": list(self.std),
        }


class Pictures(Protocol):
    """Encoded or raw images, by index."""

    def open(self, index: int) -> Image.Image:
        """The image (only its header need have been read)."""

    def name(self, index: int) -> str:
        """File and row, for messages."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images and their labels.

    As long as all of them fit in 512 MiB they are decoded at once, so that an unreadable one is found before any
    training; beyond that only the headers are checked here.

    Args:
        pictures: where the images come from.
        labels: class index of every image.
        chosen: indices into ``pictures`` and ``labels`` that make up this data set.
        preprocessing: to the network's input.

    Raises:
        DataError: an image cannot be read; names it.
    """

    def __init__(
        self, pictures: Pictures, labels: Sequence[int], chosen: Sequence[int], preprocessing: Preprocessing
    ) -> None:
        self._pictures, self._preprocessing = pictures, preprocessing
        self._labels = [int(labels[index]) for index in chosen]
        self._chosen = [int(index) for index in chosen]
        size = preprocessing.channels * preprocessing.height * preprocessing.width * len(self._chosen)
        self._cache: list[NDArray[np.uint8]] | None = None
        if size <= _CACHE_BYTES:
            self._cache = [self._decode(index) for index in range(len(self._chosen))]
        else:
            for index in self._chosen:
                _readable(pictures, index)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Normalised image (C, H, W) and class index.

        Raises:
            DataError: the image cannot be read; names it.
        """
        pixels = self._cache[index] if self._cache else self._decode(index)
        return self._preprocessing.normalise(pixels), self._labels[index]

    def _decode(self, index: int) -> NDArray[np.uint8]:
        picture = self._chosen[index]
        try:
            with self._pictures.open(picture) as image:
                return self._preprocessing.pixels(image)
        except Exception as error:  # a damaged image fails in any way it likes
            raise _unreadable(self._pictures.name(picture), error) from error


def _readable(pictures: Pictures, index: int) -> None:
    try:
        pictures.open(index).close()
    except Exception as error:
        raise _unreadable(pictures.name(index), error) from error


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"{name} cannot be read as an image: {error}", hint="mend it or take it out of the data set")


def open_encoded(content: bytes | Path) -> Image.Image:
    """Open PNG, JPEG…, from memory or from a file; pixels are read later."""
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
