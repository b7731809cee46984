"""What every runtime promises; a new runtime joins through ``known_targets``."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from hwprune import device_runner
from hwprune.errors import InputError, ModelError
from hwprune.targets import Runtime, Target, known_targets, runtime_for

TARGETS = list(known_targets().values())


def doubling_model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture(params=TARGETS, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    return chosen


@pytest.fixture
def runtime(target: Target) -> Runtime:
    return runtime_for(target)


def test_it_runs_a_model(runtime: Runtime, target: Target, tmp_path: Path) -> None:
    assert runtime.unavailable() is None
    path = tmp_path / "model.onnx"
    path.write_bytes(doubling_model())
    x = np.arange(4, dtype=np.float32)[None]
    for model in (path, doubling_model()):
        engine = runtime.open(model, dataclasses.replace(target, threads=2))
        np.testing.assert_array_equal(engine.run({"x": x})[0], 2 * x)
        engine.bind({"x": x})()


def test_it_says_when_a_precision_does_not_exist(runtime: Runtime, target: Target) -> None:
    with pytest.raises(InputError, match="no precision 'int8'") as caught:
        runtime.open(doubling_model(), dataclasses.replace(target, precision="int8"))
    assert "fp32" in caught.value.hint


def test_it_says_when_a_model_cannot_be_opened(runtime: Runtime, target: Target, tmp_path: Path) -> None:
    for model in (b"junk", tmp_path / "absent.onnx"):
        with pytest.raises(ModelError) as caught:
            runtime.open(model, target)
        assert caught.value.hint


def test_it_says_when_it_is_not_installed(runtime: Runtime, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwprune.targets.onnxruntime.find_spec", lambda _: None)
    assert "pip install" in (runtime.unavailable() or "")
    with pytest.raises(InputError, match="cannot run here") as caught:
        runtime.open(doubling_model(), target)
    assert target.name in caught.value.message


def test_it_knows_its_device(runtime: Runtime) -> None:
    found = runtime.fingerprint()
    assert found["runtime"] == runtime.name
    assert device_runner.same_device(found, runtime.fingerprint()) == []


def test_unknown_operators_are_never_taken_for_fused(runtime: Runtime) -> None:
    for into in ("conv", "conv_transpose", "linear", "max_pool2d_with_indices", "cat"):
        for op in ("conv", "linear", "cat", "max_pool2d_with_indices", "silu", "mul", "", "unheard_of"):
            assert not runtime.fuses(op, into)


def test_importing_targets_is_light() -> None:
    code = "import sys, hwprune.targets; print(sorted({'torch', 'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
