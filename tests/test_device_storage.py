"""The decoder against files that were damaged, and against files that were made to harm."""

from __future__ import annotations

import hashlib
import lzma
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprune import device_storage
from hwprune.deploy import Storage, pack, unpack
from hwprune.device_storage import BODY, HEAD, MAGIC, RECORD, SIZES, Damaged, filled
from hwprune.errors import BundleError

FORMS = ["dense-int8", "bitmask", "bitmask-fp16-zlib", "gap8", "gap8-int8", "gap8-int8-xz", "gap8-xz"]
RECORDS = np.dtype(list(RECORD))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two sparse matrices and a small one."""
    rng = np.random.default_rng(0)
    weights = []
    for name, shape in (("a", (16, 40)), ("b", (40, 30)), ("c", (30, 2))):
        values = rng.standard_normal(shape).astype(np.float32)
        values[rng.random(shape) < 0.8] = 0
        weights.append(numpy_helper.from_array(values, name))
    nodes = [helper.make_node("MatMul", [x, w], [y]) for x, w, y in (("x", "a", "p"), ("p", "b", "q"), ("q", "c", "y"))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 16), ("y", 2)))
    path = tmp_path_factory.mktemp("packed") / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights)), path)
    return {form: pack(path, Storage.parse(form)) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_seen(packed: dict[str, bytes], form: str) -> None:
    data, chance = packed[form], random.Random(0)
    whole = unpack(data)
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if changed != data:
            with pytest.raises(BundleError, match=r"packed engine"):
                unpack(bytes(changed))
    for _ in range(100):
        with pytest.raises(BundleError, match=r"packed engine"):
            unpack(data[: chance.randrange(len(data))])
    with pytest.raises(BundleError, match="packed engine"):
        unpack(data + b"\0")
    assert unpack(data) == whole


def body(data: bytes) -> bytes:
    rest = data[HEAD.size + BODY.size :]
    how = data[HEAD.size]
    return lzma.decompress(rest) if how == 2 else zlib.decompress(rest) if how == 1 else rest


def forged(content: bytes, *, compression: int = 0, size: int | None = None, raw: bytes | None = None) -> bytes:
    """A file with a checksum that is right."""
    rest = BODY.pack(compression, len(content) if size is None else size) + (content if raw is None else raw)
    return HEAD.pack(MAGIC, hashlib.sha256(rest).digest()) + rest


@pytest.mark.parametrize("form", FORMS)
def test_whoever_forges_the_checksum_gets_an_error_or_a_file_of_the_size_that_is_said(
    packed: dict[str, bytes], form: str
) -> None:
    content, chance, refused = body(packed[form]), random.Random(1), 0
    (size,) = SIZES.unpack_from(content)[:1]
    tables = SIZES.size + SIZES.unpack_from(content)[2] * RECORDS.itemsize
    assert device_storage.unpack(forged(content)) == unpack(packed[form])
    for number in range(600):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 2, 3))):
            changed[chance.randrange(tables if number % 3 else len(content))] = chance.choice((0, 1, 127, 128, 255))
        if number % 10 == 0:
            changed = changed[: chance.randrange(len(changed))]
        with np.errstate(all="ignore"):
            try:
                assert len(device_storage.unpack(forged(bytes(changed)), 4 * size)) <= 4 * size
            except Damaged:
                refused += 1
    assert refused > 200


def records(data: bytes) -> tuple[Any, bytes, bytes]:
    """The table of a body, what is before and what is after."""
    count = SIZES.unpack_from(data)[2]
    end = SIZES.size + count * RECORDS.itemsize
    return np.frombuffer(data, RECORDS, count, SIZES.size).copy(), data[: SIZES.size], data[end:]


@pytest.mark.parametrize("form", ["gap8", "bitmask", "gap8-int8"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("place", 2**32 - 1),
        ("elements", 2**32 - 1),
        ("elements", 0),
        ("entries", 2**32 - 1),
        ("channels", 7),
        ("channels", 2**32 - 1),
        ("inner", 2**32 - 1),
        ("form", 3),
        ("stored", 255),
        ("dtype", 8),
        ("dtype", 4),
    ],
)
def test_tables_that_cannot_be(packed: dict[str, bytes], form: str, field: str, value: int) -> None:
    table, before, after = records(body(packed[form]))
    if field == "inner" and not table[0]["channels"]:
        return
    table[0][field] = value
    tracemalloc.start()
    with pytest.raises(Damaged, match=r"cannot be|not as large"):
        device_storage.unpack(forged(before + table.tobytes() + after))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("sizes", [(2**63, 10, 0), (10, 2**63, 0), (10, 10, 2**32 - 1), (10, 10, 1 << 17), (11, 10, 0)])
def test_sizes_that_cannot_be(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(Damaged):
        device_storage.unpack(forged(SIZES.pack(*sizes) + bytes(10)))


@pytest.mark.parametrize("compression", [1, 2])
def test_a_small_file_that_would_become_a_large_one(compression: int) -> None:
    zeros = bytes(200 << 20)
    bomb = zlib.compress(zeros, 9) if compression == 1 else lzma.compress(zeros, preset=1)
    del zeros
    for size in (1000, 200 << 20, 2**63):
        tracemalloc.start()
        with pytest.raises(Damaged):
            device_storage.unpack(forged(b"", compression=compression, size=size, raw=bomb), 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_no_compression_has_anything_behind_it(packed: dict[str, bytes]) -> None:
    content = body(packed["gap8"])
    for compression, raw in ((1, zlib.compress(content)), (2, lzma.compress(content))):
        assert device_storage.unpack(forged(content, compression=compression, raw=raw))
        for wrong in (raw + b"x", raw[:-1], b"", raw[5:]):
            with pytest.raises(Damaged):
                device_storage.unpack(forged(content, compression=compression, raw=wrong))
    with pytest.raises(Damaged, match="compression 3"):
        device_storage.unpack(forged(content, compression=3))


def test_an_engine_larger_than_is_allowed(packed: dict[str, bytes]) -> None:
    size = len(unpack(packed["gap8"]))
    assert len(device_storage.unpack(packed["gap8"], size)) == size
    with pytest.raises(Damaged, match=f"at most {size - 1}"):
        device_storage.unpack(packed["gap8"], size - 1)


@pytest.mark.parametrize(
    ("form", "index", "values", "elements"),
    [
        ("bitmask", [0b11100000], [1, 2], 8),
        ("bitmask", [0b11000001], [1, 2, 3], 7),
        ("gap8", [0, 7], [1, 2], 8),
        ("gap8", [255, 255], [1, 2], 511),
    ],
)
def test_an_index_of_other_elements(form: str, index: list[int], values: list[int], elements: int) -> None:
    given = np.array(index, np.uint8), np.array(values, np.int8)
    with pytest.raises(Damaged):
        filled(form, *given, elements)
    if form == "gap8":
        assert filled(form, *given, elements + 1).nonzero()[0][-1] == elements


def test_it_stands_alone(packed: dict[str, bytes], tmp_path: Path) -> None:
    """One file and numpy; nothing else of what is installed is needed."""
    (tmp_path / "device_storage.py").write_bytes(Path(device_storage.__file__).read_bytes())
    (tmp_path / "packed").write_bytes(packed["gap8-int8-xz"])
    code = (
        "import sys; sys.path.insert(0, '.'); import device_storage; from pathlib import Path\n"
        "Path('model.onnx').write_bytes(device_storage.unpack(Path('packed').read_bytes()))\n"
        "assert not {'onnx', 'hwprune', 'torch', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "model.onnx").read_bytes() == unpack(packed["gap8-int8-xz"])


def test_anything_at_all() -> None:
    chance = random.Random(2)
    contents: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: MAGIC + chance.randbytes(chance.randrange(200)),
        lambda: forged(chance.randbytes(chance.randrange(200)), compression=chance.randrange(4)),
    ]
    for number in range(900):
        with pytest.raises(BundleError):
            unpack(contents[number % 3]())
