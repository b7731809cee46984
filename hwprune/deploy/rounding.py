"""Weights of an exported engine rounded to 16 or 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprune.device_storage import restored
from hwprune.footprint.encoding import Precision, to_int8

_NO_SCALES: NDArray[np.float32] = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Rounded:
    """A tensor as it is stored, and what it is computed with.

    Attributes:
        stored: values, flat: int8, float16, or those that were given.
        scales: float32, of shape (channels,); empty unless values are int8.
        inner: elements of one channel that are neighbours.
        values: as computed with, flat, of the dtype that was given.
    """

    stored: NDArray[Any]
    scales: NDArray[np.float32]
    inner: int
    values: NDArray[Any]


def rounded(values: NDArray[Any], channel_dim: int | None, precision: Precision) -> Rounded:
    """Round a tensor, if it is a weight that a precision makes smaller and can hold.

    Whether it is rounded depends on its shape alone, and on whether all of its values are finite and stay so.

    Args:
        values: floating-point numbers in any shape.
        channel_dim: the dimension that has a scale per index in int8; None: this is no weight, nothing is rounded.
        precision: to round to; fp32 rounds nothing.
    """
    flat, dtype = values.reshape(-1), values.dtype.str
    exact = Rounded(flat, _NO_SCALES, 1, flat)
    if channel_dim is None or precision == "fp32" or values.dtype.kind != "f" or not np.isfinite(flat).all():
        return exact
    if precision == "fp16":
        with np.errstate(over="ignore"):  # is seen in what comes out
            half = flat.astype("<f2")
        saves = values.itemsize > 2 and np.isfinite(half).all()
        return Rounded(half, _NO_SCALES, 1, restored(half, _NO_SCALES, 1, dtype)) if saves else exact
    channels, inner = values.shape[channel_dim], math.prod(values.shape[channel_dim + 1 :])
    if values.size + 4 * channels >= values.nbytes:
        return exact
    whole, scales = to_int8(flat.reshape(-1, channels, inner))
    return Rounded(whole.reshape(-1), scales, inner, restored(whole.reshape(-1), scales, inner, dtype))
