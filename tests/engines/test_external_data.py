"""Models whose weights are in other files are never given to a runtime as bytes: some open those files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprune.device_runner import BadInput, open_engine
from hwprune.engines.onnx_graph import check_whole

WEIGHTS = np.arange(3, dtype=np.float32)


def external(name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def value(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: list[Any], tensors: list[Any] = (), functions: list[Any] = (), sparse: list[Any] = ()) -> bytes:
    graph = helper.make_graph(nodes, "g", [value("x", 3)], [value("y", 3)], tensors, sparse_initializer=sparse)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
    content: bytes = made.SerializeToString()
    return content


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def initializer() -> bytes:
    return model([ADD], [external()])


def constant() -> bytes:
    return model([helper.make_node("Constant", [], ["w"], value=external()), ADD])


def branch() -> bytes:
    inner = helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "b", [], [value("z", 3)], [external()])
    condition = numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return model([node], [condition])


def function() -> bytes:
    inside = [helper.make_node("Constant", [], ["w"], value=external()), helper.make_node("Add", ["a", "w"], ["b"])]
    made = helper.make_function("own", "Shift", ["a"], ["b"], inside, [helper.make_opsetid("", 18)])
    return model([helper.make_node("Shift", ["x"], ["y"], domain="own")], functions=[made])


def sparse() -> bytes:
    values, indices = external(), numpy_helper.from_array(np.arange(3))
    return model([ADD], sparse=[helper.make_sparse_tensor(values, indices, [3])])


def long_tag() -> bytes:
    """The number of a field with bits that a reader of 32 bits does not see."""
    content = initializer()
    entry = external().external_data[0].SerializeToString()
    short = bytes([13 << 3 | 2, len(entry)]) + entry
    # the tensor and graph around it become longer by four bytes each, so their lengths are written anew
    assert content.count(short) == 1
    tensor = external().SerializeToString()
    longer = tensor.replace(short, bytes([13 << 3 & 127 | 2 | 128, 0x80, 0x80, 0x80, 0x10, len(entry)]) + entry)
    for other in external().external_data[1:]:
        entry = other.SerializeToString()
        longer = longer.replace(bytes([13 << 3 | 2, len(entry)]) + entry, b"")
    assert len(longer) < 128
    graph = b"\x2a" + bytes([len(longer)]) + longer  # field 5, the initializer
    return b"\x08\x0a" + b"\x3a" + bytes([len(graph)]) + graph  # ir_version and field 7


@pytest.mark.parametrize("make", [initializer, constant, branch, function, sparse, long_tag], ids=lambda m: m.__name__)
def test_it_is_refused_before_the_runtime_sees_it(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file is there, under a hard link."""
    (tmp_path / "elsewhere").write_bytes(WEIGHTS.tobytes())
    os.link(tmp_path / "elsewhere", tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("the runtime saw it"))
    with pytest.raises(BadInput, match=r"keeps the tensor 'w' in another file|is no ONNX model"):
        open_engine(make())


def test_the_word_alone_does_no_harm() -> None:
    whole = model([helper.make_node("Add", ["x", "location"], ["y"])], [numpy_helper.from_array(WEIGHTS, "location")])
    onnx.checker.check_model(whole)
    check_whole(whole)
    found = open_engine(whole).run({"x": np.ones(3, np.float32)})[0]
    np.testing.assert_array_equal(found, WEIGHTS + 1)


@pytest.mark.parametrize("junk", [b"location", b"\x3a\xff\xff\xff\xff\x7flocation", b"\x3b\x3clocation"])
def test_what_is_no_model_is_said_to_be_none(junk: bytes) -> None:
    with pytest.raises(BadInput, match="is no ONNX model"):
        open_engine(junk)
