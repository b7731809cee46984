"""How many bytes a sparse network takes as a device would store it: by encoding it, and decoding it again.

Four encodings. ``dense`` writes every value. ``bitmask`` writes a bit per element and the values that are not zero.
``gap8`` writes with each such value, in a byte, how many zeros precede it; where that is more than a byte holds, a
zero is stored in between (Han et al., "Deep Compression", ICLR 2016, arXiv 1510.00149, section 2, with 8 bits).
``onnx`` is a graph with ``sparse_initializer``, whose indices are int64. Tensors of fewer than two dimensions, and
those that an encoding would make larger, are stored dense.
"""

from __future__ import annotations

import json
import lzma
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwprune.errors import InputError

Encoding = Literal["dense", "bitmask", "gap8", "onnx"]
Precision = Literal["fp32", "fp16", "int8"]
Arrays = Mapping[str, NDArray[Any]]
_SCALE = ".scale"


@dataclass(frozen=True, kw_only=True)
class StoredSize:
    """Bytes of one network in one encoding.

    Attributes:
        encoding: ``dense``, ``bitmask``, ``gap8`` or ``onnx``.
        precision: of the weights: ``fp32``, ``fp16`` or ``int8``.
        raw: as encoded, names and shapes included.
        zlib: the same, compressed by zlib at level 9.
        lzma: the same, compressed by xz at preset 6.
    """

    encoding: Encoding
    precision: Precision
    raw: int
    zlib: int
    lzma: int


def stored_size(model: nn.Module, encoding: Encoding, precision: Precision = "fp32") -> StoredSize:
    """Encode a model's parameters and floating-point buffers, and measure.

    Shared tensors count once. Batch norms are not folded, and the graph that a device needs as well is not counted.

    Raises:
        InputError: an unknown encoding or precision, or values that are not finite.
    """
    data = encode(arrays_of(model, precision), encoding)
    compressed = len(zlib.compress(data, 9)), len(lzma.compress(data, preset=6))
    return StoredSize(encoding=encoding, precision=precision, raw=len(data), zlib=compressed[0], lzma=compressed[1])


def arrays_of(model: nn.Module, precision: Precision) -> dict[str, NDArray[Any]]:
    """Parameters and floating-point buffers in a precision.

    ``fp16`` rounds all of them. ``int8`` rounds those of two or more dimensions, symmetrically, with a float32 scale
    for every index of the first dimension, which is stored beside them; the others stay float32.

    Raises:
        InputError: an unknown precision, or values that are not finite.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is unknown", hint=f"known: {', '.join(get_args(Precision))}")
    found: dict[str, NDArray[Any]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point():
            continue
        values = tensor.detach().float().cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(f"{name} has values that are not finite", hint="store a model whose training went well")
        if precision == "int8" and values.ndim >= 2:
            found[name], found[name + _SCALE] = _int8(values)
        else:
            found[name] = values.astype(np.float16) if precision == "fp16" else values
    return found


def _int8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    largest = np.abs(values.reshape(len(values), -1)).max(axis=1, initial=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1)))
    return np.clip(rounded, -127, 127).astype(np.int8), scale


def dequantised(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """What a device computes with: float32, scales multiplied in."""
    found = {}
    for name, values in arrays.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in arrays:
            continue
        scale = arrays.get(name + _SCALE)
        plain = values.astype(np.float32)
        found[name] = plain if scale is None else plain * scale.reshape(-1, *[1] * (values.ndim - 1))
    return found


def encode(arrays: Arrays, encoding: Encoding) -> bytes:
    """Write arrays.

    Raises:
        InputError: an unknown encoding.
    """
    if encoding not in get_args(Encoding):
        raise InputError(f"encoding {encoding!r} is unknown", hint=f"known: {', '.join(get_args(Encoding))}")
    if encoding == "onnx":
        return _onnx_graph(arrays)
    header, payloads = [], []
    for name, values in arrays.items():
        form, parts = _smallest(values, encoding)
        header.append([name, values.shape, values.dtype.str, form, len(parts[-1])])
        payloads += [part.tobytes() for part in parts]
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([struct.pack("<I", len(head)), head, *payloads])


def decode(data: bytes, encoding: Encoding) -> dict[str, NDArray[Any]]:
    """Read what :func:`encode` wrote."""
    if encoding == "onnx":
        return _onnx_arrays(data)
    (length,) = struct.unpack_from("<I", data)
    found, offset = {}, 4 + length
    for name, shape, dtype, form, entries in json.loads(data[4:offset]):
        total = math.prod(shape)
        index_bytes = {"dense": 0, "bitmask": -(-total // 8), "gap8": entries}[form]
        index = np.frombuffer(data, np.uint8, index_bytes, offset)
        values = np.frombuffer(data, dtype, entries, offset + index_bytes)
        offset += index_bytes + values.nbytes
        found[name] = _filled(form, index, values, total).reshape(shape)
    return found


def _smallest(values: NDArray[Any], encoding: Encoding) -> tuple[str, list[NDArray[Any]]]:
    flat = np.ascontiguousarray(values).ravel()
    if encoding == "dense" or values.ndim < 2:
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


def _filled(form: str, index: NDArray[np.uint8], values: NDArray[Any], total: int) -> NDArray[Any]:
    if form == "dense":
        return values
    found = np.zeros(total, values.dtype)
    if form == "bitmask":
        found[np.unpackbits(index, count=total).astype(bool)] = values
    else:
        found[np.cumsum(index.astype(np.int64) + 1) - 1] = values
    return found


def _onnx_graph(arrays: Arrays) -> bytes:
    import onnx

    graph = onnx.GraphProto()
    for name, values in arrays.items():
        flat = values.ravel()
        places = np.flatnonzero(flat)
        if values.ndim < 2 or len(places) * (8 + values.itemsize) >= flat.nbytes:
            graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
            continue
        kept, index = onnx.numpy_helper.from_array(flat[places], name), onnx.numpy_helper.from_array(places)
        graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(kept, index, values.shape))
    return bytes(graph.SerializeToString())


def _onnx_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    import onnx

    graph = onnx.GraphProto.FromString(data)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        values = onnx.numpy_helper.to_array(sparse.values)
        found = np.zeros(math.prod(sparse.dims), values.dtype)
        found[onnx.numpy_helper.to_array(sparse.indices)] = values
        arrays[sparse.values.name] = found.reshape(tuple(sparse.dims))
    return arrays
