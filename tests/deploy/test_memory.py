"""What the runtime's allocator counts, on graphs whose tensors can be counted by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprune.deploy import Memory, channel_block, measure_memory, memory
from hwprune.errors import ModelError
from hwprune.targets import Target

HERE = Target(name="local", runtime="onnxruntime")


def chain(path: Path, *sizes: int) -> Path:
    """Matrix products from one size to the next, one row each; no result has the size of another."""
    names = ["x", *(f"h{i}" for i in range(1, len(sizes) - 1)), "y"]
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), f"w{i}")
        for i, shape in enumerate(itertools.pairwise(sizes))
    ]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(len(weights))]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in zip((names[0], names[-1]), (sizes[0], sizes[-1]), strict=True)
    ]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def measured(path: Path, target: Target = HERE) -> Memory:
    found = measure_memory(path, target)
    if found is None:
        pytest.skip("this onnxruntime does not tell what it allocates")
    return found


def test_by_hand(tmp_path: Path) -> None:
    found = measured(chain(tmp_path / "chain.onnx", 10, 300, 200, 100, 1))
    assert found.weights == 4 * (10 * 300 + 300 * 200 + 200 * 100 + 100)
    assert found.activations == 4 * (10 + 300 + 200)  # the input is held, the third layer holds less
    assert found.total == found.weights + found.activations


def test_the_default_mode_keeps_buffers(tmp_path: Path) -> None:
    """Three results of one size: the third could lie where the first was, which is kept for it."""
    path = chain(tmp_path / "chain.onnx", 10, 300, 20, 300, 10, 5)
    sparing, default = measured(path), measure_memory(path, HERE, sparing=False)
    assert default is not None
    assert sparing.activations == 4 * (10 + 300 + 20)
    assert default.weights == sparing.weights
    assert default.activations >= sparing.activations


def test_threads_change_nothing(tmp_path: Path) -> None:
    path = chain(tmp_path / "chain.onnx", 10, 300, 200, 100, 1)
    assert measured(path) == measured(path, Target(name="two", runtime="onnxruntime", threads=2))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chain(tmp_path / "chain.onnx", 3, 2)
    monkeypatch.chdir(tmp_path)
    measured(path)
    assert list(tmp_path.iterdir()) == [path]


def test_other_runtimes_and_devices_do_not_tell(tmp_path: Path) -> None:
    for other in (Target(name="other", runtime="openvino"), Target(name="away", connection="none")):
        assert measure_memory(tmp_path / "not even read.onnx", other) is None
        assert channel_block(other) == 1


def test_an_older_onnxruntime_does_not_tell(tmp_path: Path) -> None:
    events = [{"cat": "Node", "args": {"output_type_shape": [{"float": [1, 2]}]}}]
    loads = mock.Mock(side_effect=lambda text: events if b"args" in text else json.loads(text))
    with mock.patch.object(memory.json, "loads", loads):
        assert measure_memory(chain(tmp_path / "chain.onnx", 3, 2), HERE) is None


@pytest.mark.parametrize("content", [b"", b"not a model", onnx.ModelProto().SerializeToString()])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        measure_memory(tmp_path / "model.onnx", HERE)


def two_convolutions(path: Path, channels: int) -> Path:
    """3×16×16 → channels×14×14 → channels."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 1, 1]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((channels, 3, 3, 3), np.float32), "v"),
        numpy_helper.from_array(np.ones((channels, channels, 14, 14), np.float32), "w"),
    ]
    nodes = [helper.make_node("Conv", ["x", "v"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])]
    graph = helper.make_graph(nodes, "two", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_multiples_of_the_block_hold_no_padding(tmp_path: Path) -> None:
    block = channel_block(HERE)
    for channels in (block, 2 * block):
        found = measured(two_convolutions(tmp_path / "two.onnx", channels))
        assert found.activations == 4 * (3 * 256 + channels * 196 + channels)
    if block > 1:
        found = measured(two_convolutions(tmp_path / "two.onnx", block + 1))
        assert found.activations >= 4 * (3 * 256 + 2 * block * 196)
