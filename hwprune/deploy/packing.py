"""An engine as a file of few bytes: its weights rounded, their zeros left out, what remains compressed.

The format is that of :mod:`hwprune.device_storage`, which also opens it on a device. With fp32 the ONNX file comes back
byte for byte; otherwise with rounded weights in it, and all else unchanged.
"""

from __future__ import annotations

import hashlib
import lzma
import zlib
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from hwprune import device_storage
from hwprune.deploy.onnx_weights import Roles, WrittenTensor, written_tensors
from hwprune.deploy.rounding import Rounded, rounded
from hwprune.deploy.sparse_onnx import sparse_onnx
from hwprune.deploy.storage import Compression, Storage
from hwprune.errors import BundleError, InputError, ModelError, first_line
from hwprune.footprint.encoding import Encoding, smallest

_RECORD = np.dtype(list(device_storage.RECORD))


def pack(path: Path, storage: Storage) -> bytes:
    """Write an engine in a form.

    Args:
        path: an ONNX file; what it keeps in other files beside it comes inside.
        storage: the form.

    Returns:
        the contents of the packed file; of an ONNX file if that is the encoding.

    Raises:
        InputError: the file, or one beside it that it names, cannot be read.
        ModelError: it is no ONNX model, or has more than 2 GB.
    """
    content, model = _read(path)
    if not storage.packed:
        return sparse_onnx(model, storage.precision)
    roles, body = Roles(model.graph), _Body(content, storage.encoding)
    for tensor in written_tensors(content):
        values = np.frombuffer(content[tensor.start : tensor.end], tensor.dtype).reshape(tensor.shape)
        dim = roles.channel_dim(tensor.name, values.ndim)
        body.add(tensor, rounded(values, dim, storage.precision))
    return _sealed(body.content(), storage.compression)


def packed_size(path: Path, storage: Storage) -> int:
    """Bytes that an engine takes in a form; arguments and errors are those of :func:`pack`."""
    return len(pack(path, storage))


def unpack(data: bytes) -> bytes:
    """The ONNX file that runs: what :func:`pack` wrote, with its weights in place; a plain ONNX file as it is.

    Raises:
        BundleError: it is neither, or a packed file that was changed or cut short.
    """
    if not data.startswith(device_storage.MAGIC) and _is_onnx(data):
        return data
    try:
        return device_storage.unpack(data)
    except device_storage.Damaged as error:
        raise BundleError(str(error), hint="write it again") from error


class _Body:
    """What is written so far."""

    def __init__(self, content: bytes, encoding: Encoding) -> None:
        self._content, self._encoding, self._done = content, encoding, 0
        self._skeleton = bytearray()
        self._records: list[tuple[int, ...]] = []
        self._parts: list[bytes] = []

    def add(self, tensor: WrittenTensor, weight: Rounded) -> None:
        """The next tensor of the file: apart where that takes fewer bytes."""
        self._skeleton += self._content[self._done : tensor.start]
        self._done = tensor.end
        whole = weight.stored is weight.values
        stored = weight.stored.view(f"<u{weight.stored.itemsize}") if whole else weight.stored  # the sign of zeros, too
        form, arrays = smallest(stored, self._encoding)
        parts = [weight.scales.tobytes(), *(array.tobytes() for array in arrays)]
        room = len(self._records) < device_storage.MOST_TENSORS
        if not room or sum(map(len, parts)) + _RECORD.itemsize >= tensor.end - tensor.start:
            self._skeleton += weight.values.tobytes()
            return
        dtypes = (stored.dtype.str, stored.dtype.str if whole else tensor.dtype)
        codes = (device_storage.FORMS.index(form), *map(device_storage.DTYPES.index, dtypes))
        numbers = (len(self._skeleton), weight.values.size, len(arrays[-1]), len(weight.scales), weight.inner)
        self._records.append((*numbers, *codes))
        self._parts += parts

    def content(self) -> bytes:
        """All of it, after the last tensor."""
        skeleton = bytes(self._skeleton) + self._content[self._done :]
        sizes = device_storage.SIZES.pack(len(self._content), len(skeleton), len(self._records))
        return b"".join([sizes, np.array(self._records, _RECORD).tobytes(), skeleton, *self._parts])


def _sealed(body: bytes, compression: Compression) -> bytes:
    packed = body
    if compression != "none":
        packed = zlib.compress(body, 9) if compression == "zlib" else lzma.compress(body)
    rest = device_storage.BODY.pack(device_storage.COMPRESSIONS.index(compression), len(body)) + packed
    return device_storage.HEAD.pack(device_storage.MAGIC, hashlib.sha256(rest).digest()) + rest


def _read(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """A model with all weights inside, and its file."""
    try:
        content = path.read_bytes()
        alone, model = (onnx.load_model_from_string(content) for _ in range(2))
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        if model != alone:
            content = model.SerializeToString(deterministic=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint="give an exported model") from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is no ONNX model: {first_line(error)}", hint="give an exported model") from error
    if not model.graph.node:
        raise ModelError(f"{path} is no ONNX model: there is no graph in it", hint="give an exported model")
    return content, model


def _is_onnx(data: bytes) -> bool:
    try:
        return bool(onnx.load_model_from_string(data).graph.node)
    except DecodeError:
        return False
