"""Packed engines opened on a device: an ONNX file whose weights are encoded apart, put together again.

It needs Python 3.8 and numpy (imported late), and stands beside ``run.py`` in bundles of packed engines. hwprune writes
the format in ``hwprune.deploy.packing`` and reads it with this file, so that there is one decoder. All numbers are
little-endian::

    magic (8)   SHA-256 of all that follows (32)   compression (1)   bytes of the body (8)   body, compressed

    body:  bytes of the ONNX file, of its skeleton (8 each), number of tensors (4)
           a record of RECORD for every tensor
           skeleton: the ONNX file without the bytes of these tensors, which are those that take less when encoded
           for every tensor: its scales (float32), the index of its encoding (see filled), its values
"""

from __future__ import annotations

import hashlib
import importlib
import lzma
import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\xffhwpk1\r\n"
COMPRESSIONS = ("none", "zlib", "xz")  # a place in these tuples is what the file holds
FORMS = ("dense", "bitmask", "gap8")
DTYPES = ("|i1", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
RECORD = (
    ("place", "<u4"),  # in the skeleton, where the tensor's bytes belong
    ("elements", "<u4"),
    ("entries", "<u4"),  # values that are stored
    ("channels", "<u4"),  # scales; 0: the values are stored as they are
    ("inner", "<u4"),  # elements of one channel that are neighbours: element i is of channel i // inner % channels
    ("form", "|u1"),
    ("stored", "|u1"),  # dtype of the values in this file
    ("dtype", "|u1"),  # and of the tensor
)
MOST_BYTES = 2**31 - 1  # an ONNX file has no more
MOST_TENSORS = 1 << 16
HEAD, BODY, SIZES = struct.Struct("<8s32s"), struct.Struct("<BQ"), struct.Struct("<QQI")
_XZ_MEMORY = 1 << 26  # a dictionary of preset 6 is 8 MB


class Damaged(ValueError):
    """This is no packed engine, or not all of it, or it was changed."""


def unpack(data: bytes, most: int = MOST_BYTES) -> bytes:
    """The ONNX file in a packed engine.

    Args:
        data: the whole packed file.
        most: bytes that the ONNX file may have; nothing larger is ever allocated.

    Raises:
        Damaged: it is no packed engine, was changed or cut short, or would be larger than that.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise Damaged("this is no packed engine: it begins with other bytes")
    if len(data) < HEAD.size + BODY.size:
        raise Damaged(f"a packed engine of {len(data)} bytes was cut short")
    rest = memoryview(data)[HEAD.size :]
    if hashlib.sha256(rest).digest() != HEAD.unpack_from(data)[1]:
        raise Damaged("the packed engine was changed or cut short: its checksum is another one")
    compression, size = BODY.unpack_from(rest)
    body = _expanded(
        rest[BODY.size :], compression, size, SIZES.size + most
    )  # what is encoded is smaller, its record included
    return b"".join(_spliced(memoryview(body), most))


def filled(form: str, index: NDArray[Any], values: NDArray[Any], elements: int) -> NDArray[Any]:
    """The elements of one tensor, flat, from the values that were stored of it.

    Args:
        form: ``dense``: all values; ``bitmask``: index has a bit for every element, set where a value is; ``gap8``:
            index has a byte for every value, the number of elements left out before it.
        index: of uint8.
        values: those that are stored, in order.
        elements: how many there are; those that are not stored are zero.

    Raises:
        Damaged: the index is not one of as many values and elements.
    """
    np = importlib.import_module("numpy")
    if form == "dense":
        return values
    found = np.zeros(elements, values.dtype)
    if form == "bitmask":
        mask = np.unpackbits(index)
        if int(mask.sum()) != len(values) or mask[elements:].any():
            raise Damaged("a tensor's bitmask has another number of values")
        found[mask[:elements].astype(bool)] = values
    elif len(index):
        places = np.cumsum(index, dtype=np.int64) + np.arange(len(index))
        if int(places[-1]) >= elements:
            raise Damaged("a tensor's gaps reach beyond its end")
        found[places] = values
    whole: NDArray[Any] = found
    return whole


def restored(values: NDArray[Any], scales: NDArray[Any], inner: int, dtype: str) -> NDArray[Any]:
    """A tensor as it is computed with.

    Args:
        values: as stored, flat.
        scales: of its channels, to be multiplied in; none of them where values are stored as they are.
        inner: as in ``RECORD``.
        dtype: of the tensor.
    """
    found = values.reshape(-1, len(scales), inner) * scales[:, None] if len(scales) else values
    return found.astype(dtype).reshape(-1)


def index_bytes(form: str, elements: int, entries: int) -> int:
    """Bytes of a tensor's index."""
    return {"dense": 0, "bitmask": -(-elements // 8), "gap8": entries}[form]


def _expanded(data: memoryview, compression: int, size: int, most: int) -> bytes | memoryview:
    if compression >= len(COMPRESSIONS) or size > most:
        raise Damaged(f"the packed engine says compression {compression} and {size} bytes, at most {most} are allowed")
    name = COMPRESSIONS[compression]
    if name == "none":
        found, ended = data, True
    else:
        reader: Any = zlib.decompressobj() if name == "zlib" else lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        try:
            found = reader.decompress(data, size + 1)
        except (zlib.error, lzma.LZMAError) as error:
            raise Damaged(f"the packed engine cannot be decompressed: {error}") from error
        ended = reader.eof and not reader.unused_data
    if len(found) != size or not ended:
        raise Damaged(f"the packed engine is not of the {size} bytes that it says")
    return found


def _spliced(body: memoryview, most: int) -> list[Any]:
    """The skeleton's pieces and the tensors' bytes, in the order of the file; nothing is allocated before it fits."""
    np = importlib.import_module("numpy")
    dtype = np.dtype(list(RECORD))
    if len(body) < SIZES.size:
        raise Damaged("the packed engine's tables are cut short")
    size, bones, count = SIZES.unpack_from(body)
    start = SIZES.size + count * dtype.itemsize
    if size > most or count > MOST_TENSORS or start + bones > len(body):
        raise Damaged(
            f"the packed engine says {size} bytes and {count} encoded tensors; at most {most} and {MOST_TENSORS} of "
            f"them are allowed, and they must be there"
        )
    records = [
        dict(zip(dtype.names, values)) for values in np.frombuffer(body, dtype, count, offset=SIZES.size).tolist()
    ]
    skeleton, offset = body[start : start + bones], start + bones
    _check(records, bones, size, len(body) - offset)
    pieces: list[Any] = []
    done = 0
    for record in records:
        pieces.append(skeleton[done : record["place"]])
        done = record["place"]
        tensor = _tensor(record, body[offset : offset + _taken(record)])
        offset += _taken(record)
        pieces.append(tensor)
    return [*pieces, skeleton[done:]]


def _check(records: list[dict[str, int]], skeleton: int, size: int, payload: int) -> None:
    taken = held = place = 0
    for record in records:
        codes = record["form"] < len(FORMS) and max(record["stored"], record["dtype"]) < len(DTYPES)
        if not codes or not place <= record["place"] <= skeleton or not _sound(record):
            raise Damaged(f"the packed engine describes a tensor that cannot be: {record}")
        place, taken = record["place"], taken + _taken(record)
        held += record["elements"] * _width(record["dtype"])
    if taken != payload or skeleton + held != size:
        raise Damaged("the packed engine's tensors are not as large as it says")


def _sound(record: dict[str, int]) -> bool:
    form, stored, dtype = FORMS[record["form"]], DTYPES[record["stored"]], DTYPES[record["dtype"]]
    known = record["entries"] <= record["elements"] and (form != "dense" or record["entries"] == record["elements"])
    if not record["channels"]:
        return known and (stored == dtype or (stored == "<f2" and dtype in ("<f4", "<f8")))
    even = record["inner"] and record["elements"] % (record["channels"] * record["inner"]) == 0
    return bool(known and even and stored == "|i1" and dtype in ("<f2", "<f4", "<f8"))


def _width(code: int) -> int:
    return int(DTYPES[code][2:])


def _taken(record: dict[str, int]) -> int:
    """Bytes of a tensor's scales, index and values."""
    index = index_bytes(FORMS[record["form"]], record["elements"], record["entries"])
    return 4 * record["channels"] + index + record["entries"] * _width(record["stored"])


def _tensor(record: dict[str, int], content: memoryview) -> bytes:
    np = importlib.import_module("numpy")
    form, elements, channels = FORMS[record["form"]], record["elements"], record["channels"]
    first = 4 * channels
    then = first + index_bytes(form, elements, record["entries"])
    scales = np.frombuffer(content[:first], "<f4")
    index = np.frombuffer(content[first:then], np.uint8)
    values = np.frombuffer(content[then:], DTYPES[record["stored"]])
    found = filled(form, index, values, elements)
    return bytes(restored(found, scales, record["inner"], DTYPES[record["dtype"]]).tobytes())
