"""Weights as a device would store them: which values, in which precision, in how few bytes.

Four encodings. ``dense`` holds every value. ``bitmask`` holds a bit per element and the values that are not zero.
``gap8`` holds with each such value, in a byte, how many zeros precede it; where that is more than a byte holds, a
zero is stored in between (Han et al., "Deep Compression", ICLR 2016, arXiv 1510.00149, section 2, with 8 bits).
``onnx`` is ONNX's ``sparse_initializer``, whose indices are int64. What they write is read by
``hwprune.device_storage.filled``, and ``onnx`` by whatever opens ONNX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import InputError

if TYPE_CHECKING:
    import onnx

Encoding = Literal["dense", "bitmask", "gap8", "onnx"]
Precision = Literal["fp32", "fp16", "int8"]


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that there is not.

    Raises:
        InputError: names those there are.
    """
    if encoding not in get_args(Encoding):
        raise InputError(f"encoding {encoding!r} is unknown", hint=f"known: {', '.join(get_args(Encoding))}")


def check_precision(precision: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        InputError: names those there are.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is unknown", hint=f"known: {', '.join(get_args(Precision))}")


def smallest(flat: NDArray[Any], encoding: Encoding) -> tuple[str, list[NDArray[Any]]]:
    """A tensor's values in an encoding, or dense where that is no larger.

    Args:
        flat: values, one-dimensional.
        encoding: ``dense``, ``bitmask`` or ``gap8``.

    Returns:
        the encoding taken, and what is to be stored: an index (uint8) unless it is dense, and the values.
    """
    if encoding == "dense":
        return "dense", [flat]
    parts = [np.packbits(flat != 0), flat[flat != 0]] if encoding == "bitmask" else _gaps(flat)
    return (encoding, parts) if sum(part.nbytes for part in parts) < flat.nbytes else ("dense", [flat])


def _gaps(flat: NDArray[Any]) -> list[NDArray[Any]]:
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // 256 + 1) - 1  # a stored zero takes 255 zeros along, and is one itself
    index = np.full(int(ends[-1]) + 1 if len(ends) else 0, 255, np.uint8)
    index[ends] = gaps % 256
    values = np.zeros(len(index), flat.dtype)
    values[ends] = flat[places]
    return [index, values]


def sparse_tensor(values: NDArray[Any], name: str) -> onnx.SparseTensorProto | None:
    """ONNX's sparse form of a tensor; None where that is no smaller than the dense one."""
    import onnx

    flat = values.ravel()
    places = np.flatnonzero(flat)
    if len(places) * (8 + values.itemsize) >= flat.nbytes:
        return None
    kept, index = onnx.numpy_helper.from_array(flat[places], name), onnx.numpy_helper.from_array(places)
    return onnx.helper.make_sparse_tensor(kept, index, values.shape)


def to_int8(values: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round symmetrically to 8 bits, with one scale per channel.

    Args:
        values: of shape (outer, channels, inner), finite.

    Returns:
        whole numbers from -127 to 127 in the same shape, and scales of shape (channels,); their product is the values
        to within half a scale.
    """
    largest = np.abs(values).max(axis=(0, 2), initial=0)
    scale = (largest / 127).astype(np.float32)
    scale[scale == 0] = 1
    rounded = np.rint(values / scale[:, None])
    return np.clip(rounded, -127, 127).astype(np.int8), scale
