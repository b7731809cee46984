"""From an image to a network's input as in training; stands beside ``run.py``.

It needs Python 3.8 and numpy (imported late). Raw pixels and binary PPM and PGM are read with these alone; PNG, JPEG
and what else there is with Pillow, where it is installed. Scaling is always done here, with the arithmetic of Pillow's
bilinear filter for 8 bits (of version 13), with which networks are trained, so that pixels are the same everywhere.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput
else:
    from device_runner import BadInput  # beside this one on a device

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANNELS = {"L": 1, "RGB": 3}
_RESIZE = "cover, bilinear, centre crop"
_LUMA = (19595, 38470, 7471)  # of red, green and blue, in 65536ths (ITU-R 601-2)
_FRACTION_BITS = 22  # of a weight
_SPACE, _NUMBER = rb"(?:\s|#[^\r\n]*[\r\n])+", rb"(\d{1,9})"
_PNM = re.compile(rb"P([56])" + 3 * (_SPACE + _NUMBER) + rb"\s")


def read_image(path: Path, color: str) -> NDArray[Any]:
    """The pixels of one picture file, uint8 (H, W, C).

    Args:
        path: PPM or PGM (binary, 8 bits), or any format that Pillow reads.
        color: ``L`` or ``RGB``, what Pillow is to make of it.

    Raises:
        BadInput: it is no such picture, or Pillow is needed and not installed.
    """
    np = importlib.import_module("numpy")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    found = _PNM.match(content)
    if found:
        channels, (width, height, most) = 3 if found[1] == b"6" else 1, map(int, found.groups()[1:])
        if most != 255 or len(content) - found.end() < width * height * channels or not width * height:
            raise BadInput(f"{path} is no whole PPM or PGM of 8 bits per channel")
        pixels = np.frombuffer(content, np.uint8, width * height * channels, offset=found.end())
        plain: NDArray[Any] = pixels.reshape(height, width, channels)
        return plain
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise BadInput(
            f"{path} needs Pillow, which is not installed (pip install pillow); without it .npy and .npz of uint8 "
            "pixels and binary .ppm and .pgm are read"
        ) from error
    try:
        with pillow.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode} (more than 8 bits per channel) is not supported")
            decoded: NDArray[Any] = np.asarray(image.convert(color), np.uint8)
    except Exception as error:  # a damaged image fails in any way it likes
        raise BadInput(f"{path} cannot be read as an image: {error}") from error
    return decoded.reshape(*decoded.shape[:2], -1)


def prepared(pixels: NDArray[Any], preprocessing: Mapping[str, Any]) -> NDArray[Any]:
    """An input of the network, float32 (C, H, W).

    Args:
        pixels: uint8 (H, W, 1) or (H, W, 3), of any size.
        preprocessing: of kind ``image``, as in a manifest.

    Raises:
        BadInput: these are no such pixels, or what is to be done to them is not known here.
    """
    np = importlib.import_module("numpy")
    try:
        channels = _CHANNELS[preprocessing["color"]]
        height, width = int(preprocessing["height"]), int(preprocessing["width"])
        mean, std = (np.asarray(preprocessing[key], np.float32).reshape(channels, 1, 1) for key in ("mean", "std"))
        largest, known = np.float32(1 / preprocessing["scale"]), preprocessing["resize"] == _RESIZE
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadInput(f"the manifest's preprocessing cannot be followed: {type(error).__name__}: {error}") from error
    if not known or min(height, width) < 1:
        raise BadInput(f"the manifest's preprocessing asks for {preprocessing['resize']!r}; {_RESIZE!r} is known here")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise BadInput(f"pixels are {pixels.dtype} of shape {pixels.shape}; uint8 (H, W, 1) or (H, W, 3) is needed")
    fitted = _covering(_colored(pixels, channels), height, width).transpose(2, 0, 1)
    result: NDArray[Any] = (fitted.astype(np.float32) / largest - mean) / std
    return result


def _colored(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    np = importlib.import_module("numpy")
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)  # type: ignore[no-any-return]
    grey = (pixels.astype(np.int64) @ np.array(_LUMA) + (1 << 15)) >> 16
    return grey.astype(np.uint8)[..., None]  # type: ignore[no-any-return]


def _covering(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Scaled until the size is covered; what sticks out is cut off on both sides."""
    tall, wide = pixels.shape[:2]
    ratio = width / height
    used_wide, used_tall = float(wide), float(tall)
    if wide / tall > ratio:
        used_wide = ratio * tall
    elif wide / tall < ratio:
        used_tall = wide / ratio
    left, top = (wide - used_wide) * 0.5, (tall - used_tall) * 0.5
    if tall > height and tall - height > 2 * (wide - width):  # which comes first makes a grey level where it is rounded
        shorter = _scaled(pixels, top, top + used_tall, height)
        return _scaled(shorter.swapaxes(0, 1), left, left + used_wide, width).swapaxes(0, 1)
    narrower = _scaled(pixels.swapaxes(0, 1), left, left + used_wide, width).swapaxes(0, 1)
    return _scaled(narrower, top, top + used_tall, height)


def _scaled(pixels: NDArray[Any], low: float, high: float, size: int) -> NDArray[Any]:
    """The part from ``low`` to ``high`` of the first axis in ``size`` rows: a triangle's weights, in fixed point."""
    np = importlib.import_module("numpy")
    start, length = float(np.float32(low)), float(np.float32(high) - np.float32(low))
    step = length / size
    reach = max(step, 1.0)
    rows = []
    for row in range(size):
        centre = start + (row + 0.5) * step
        first, end = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), len(pixels))
        weights = [max(1 - abs((place - centre + 0.5) * (1 / reach)), 0.0) for place in range(first, end)]
        total = sum(weights)
        fixed = [math.floor(weight / total * (1 << _FRACTION_BITS) + 0.5) for weight in weights]
        summed = np.tensordot(np.array(fixed, np.int64), pixels[first:end].astype(np.int64), 1)
        rows.append((summed + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS)
    return np.clip(np.stack(rows), 0, 255).astype(np.uint8)  # type: ignore[no-any-return]
