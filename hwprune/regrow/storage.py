"""How many bytes a sparse network takes as a device would store it: by encoding it, and decoding it again.

The encodings are those of :mod:`hwprune.footprint.encoding`. Tensors of fewer than two dimensions, and those that an
encoding would make larger, are stored dense.
"""

from __future__ import annotations

import json
import lzma
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwprune.device_storage import filled, index_bytes
from hwprune.errors import InputError
from hwprune.footprint.encoding import Encoding as Encoding
from hwprune.footprint.encoding import Precision as Precision
from hwprune.footprint.encoding import check_encoding, check_precision, smallest, sparse_tensor, to_int8

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
    check_precision(precision)
    found: dict[str, NDArray[Any]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point():
            continue
        values = tensor.detach().float().cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(f"{name} has values that are not finite", hint="store a model whose training went well")
        if precision == "int8" and values.ndim >= 2:
            rounded, found[name + _SCALE] = to_int8(values.reshape(1, len(values), -1))
            found[name] = rounded.reshape(values.shape)
        else:
            found[name] = values.astype(np.float16) if precision == "fp16" else values
    return found


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
    check_encoding(encoding)
    if encoding == "onnx":
        return _onnx_graph(arrays)
    header, payloads = [], []
    for name, values in arrays.items():
        form, parts = smallest(np.ascontiguousarray(values).ravel(), encoding if values.ndim >= 2 else "dense")
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
        index = np.frombuffer(data, np.uint8, index_bytes(form, total, entries), offset)
        values = np.frombuffer(data, dtype, entries, offset + index.nbytes)
        offset += index.nbytes + values.nbytes
        found[name] = filled(form, index, values, total).reshape(shape)
    return found


def _onnx_graph(arrays: Arrays) -> bytes:
    import onnx

    graph = onnx.GraphProto()
    for name, values in arrays.items():
        sparse = sparse_tensor(values, name) if values.ndim >= 2 else None
        if sparse is None:
            graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        else:
            graph.sparse_initializer.append(sparse)
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
