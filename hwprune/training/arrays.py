"""Samples from an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from hwprune.errors import DataError
from hwprune.training.data import Data
from hwprune.training.images import ImageDataset, Preprocessing
from hwprune.training.split import stratified_split

_KEYS = "x and y, or x_train, y_train, x_val and y_val"


class Arrays:
    """Raw 8-bit images.

    Args:
        images: uint8, (N, H, W, C) with 1 or 3 channels.
        source: where they come from, for messages.
    """

    def __init__(self, images: NDArray[np.uint8], source: str) -> None:
        self._images, self._source = images, source

    def open(self, index: int) -> Image.Image:
        """The image."""
        image = self._images[index]
        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)

    def name(self, index: int) -> str:
        """Source and row."""
        return f"{self._source}, row {index}"


def load_arrays(path: Path, input_shape: Sequence[int], seed: int) -> Data:
    """Read ``x`` and ``y`` (split here), or ``x_train``, ``y_train``, ``x_val`` and ``y_val``.

    8-bit arrays are images, (N, H, W), (N, H, W, C) or (N, C, H, W): brought to the input's size and normalised.
    Floating-point arrays are taken as they are and must have the input's shape.

    Raises:
        DataError: damaged, other keys, or shapes and labels that do not fit.
    """
    arrays = _read(path)
    if set(arrays) not in ({"x", "y"}, {"x_train", "y_train", "x_val", "y_val"}):
        raise DataError(f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}", hint=f"it needs {_KEYS}")
    if len({array.dtype for key, array in arrays.items() if key.startswith("x")}) > 1:
        raise DataError(f"x_train and x_val of {path} differ in type", hint="save both in the same way")
    endings = ("",) if "x" in arrays else ("_train", "_val")
    labels = [_labels(arrays[f"y{end}"], arrays[f"x{end}"], f"{path}:y{end}") for end in endings]
    parts = [
        _dataset(arrays[f"x{end}"], y, f"{path}:x{end}", input_shape) for end, y in zip(endings, labels, strict=True)
    ]
    if len(parts) == 1:
        parts = [Subset(parts[0], chosen) for chosen in stratified_split(labels[0].tolist(), seed)]
    images = arrays[f"x{endings[0]}"].dtype == np.uint8
    return Data(
        train=parts[0],
        validation=parts[1],
        classes=int(max(y.max() for y in labels)) + 1,
        preprocessing=Preprocessing.of(input_shape).to_dict() if images else {"kind": "array"},
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise _damaged(path, "it is no zip archive")
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:  # a damaged archive fails in any way it likes
        if "allow_pickle" not in str(error):
            raise _damaged(path, str(error)) from error
        raise DataError(
            f"{path} holds Python objects; reading them would run code, so nothing was read",
            hint="save plain arrays: np.savez(path, x=images, y=labels)",
        ) from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read as .npz: {reason}", hint="it is truncated or is no .npz; copy it again")


def _labels(y: NDArray[Any], x: NDArray[Any], name: str) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(f"{name} is {y.dtype} of shape {y.shape}", hint="give class indices: integers, shape (N,)")
    if x.ndim == 0 or len(x) != len(y) or len(y) == 0:
        raise DataError(f"{name} has {len(y)} labels for samples of shape {x.shape}", hint="one label per sample")
    if y.min() < 0:
        raise DataError(f"{name} has label {y.min()} in row {int(y.argmin())}", hint="class indices start at 0")
    return y.astype(np.int64)


def _dataset(x: NDArray[Any], labels: NDArray[np.int64], name: str, input_shape: Sequence[int]) -> Dataset[Any]:
    if x.dtype == np.uint8:
        pictures = Arrays(_channels_last(x, name), name)
        return ImageDataset(pictures, labels.tolist(), range(len(x)), Preprocessing.of(input_shape))
    if x.dtype.kind != "f":
        raise DataError(f"{name} is {x.dtype}", hint="give uint8 images or floating-point inputs")
    if x.shape[1:] != tuple(input_shape[1:]):
        raise DataError(
            f"{name} has samples of shape {x.shape[1:]}, the network's input has {tuple(input_shape[1:])}",
            hint="floating-point inputs are taken as they are: save them in the shape of the input",
        )
    finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if not finite.all():
        raise DataError(f"{name} has NaN or infinity in row {int(finite.argmin())}", hint="every input must be finite")
    return TensorDataset(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels))


def _channels_last(x: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if x.ndim == 3:
        return x[..., None]
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return x
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x.transpose(0, 2, 3, 1)
    raise DataError(
        f"{name} is uint8 of shape {x.shape}", hint="8-bit images are (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3"
    )
