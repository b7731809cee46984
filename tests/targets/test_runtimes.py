"""What every runtime promises; a new runtime joins through ``known_targets``."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprune import device_runner
from hwprune.engines import Engine
from hwprune.errors import InputError, ModelError
from hwprune.targets import Runtime, Target, device_files, known_targets, runtime_for

TARGETS = list(known_targets().values())
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def graph_bytes(nodes: list[Any], weights: dict[str, np.ndarray[Any, Any]] | None = None) -> bytes:
    """A network from ``x`` (1, 3, 8, 8) to ``y`` (1, 4, 8, 8), as ONNX."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def onnx_model() -> bytes:
    conv = helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])
    return graph_bytes([conv, helper.make_node("Relu", ["c"], ["y"], name="relu")], {"w": WEIGHT})


def quantised_model() -> bytes:
    """The same with Q/DQ on both sides of the convolution."""
    weights = {"w": WEIGHT, "scale": np.float32(0.05), "zero": np.int8(0)}
    nodes = []
    for name in ("x", "w"):
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", "scale", "zero"], [f"{name}d"]))
    conv = helper.make_node("Conv", ["xd", "wd"], ["c"], name="conv", pads=[1, 1, 1, 1])
    return graph_bytes([*nodes, conv, helper.make_node("Relu", ["c"], ["y"], name="relu")], weights)


def torch_model() -> bytes:
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.ReLU()).eval()
    network[0].weight.data = torch.tensor(WEIGHT)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 8, 8),)), buffer)
    return buffer.getvalue()


def ncnn_model() -> bytes:
    from hwprune.targets.ncnn import converted

    return converted(onnx_model())


@pytest.fixture(params=TARGETS, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    return chosen


@pytest.fixture
def runtime(target: Target) -> Runtime:
    return runtime_for(target)


@pytest.fixture
def here(runtime: Runtime) -> Runtime:
    """The runtime, if it is installed."""
    reason = runtime.unavailable()
    if reason:
        pytest.skip(reason)
    return runtime


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    return {}


@pytest.fixture
def model(here: Runtime, models: dict[str, bytes]) -> bytes:
    """The network in the runtime's format."""
    if here.model_format not in models:
        make = {"onnx": onnx_model, "torch": torch_model, "ncnn": ncnn_model}[here.model_format]
        models[here.model_format] = make()
    return models[here.model_format]


def expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The network in plain numpy."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, WEIGHT), 0)


def feeds_of(engine: Engine, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    return device_runner.example_feeds(engine, seed)


def test_it_runs_a_model(here: Runtime, target: Target, model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(model)
    for source in (path, model):
        engine = here.open(source, dataclasses.replace(target, threads=2))
        (x,) = feeds_of(engine).values()
        assert [(port["shape"], port["dtype"]) for port in engine.inputs] == [([1, 3, 8, 8], "float32")]
        assert [(port["shape"], port["dtype"]) for port in engine.outputs] == [([1, 4, 8, 8], "float32")]
        np.testing.assert_allclose(engine.run(feeds_of(engine))[0], expected(x), rtol=1e-4, atol=1e-5)
        engine.bind(feeds_of(engine))()
        engine.close()


def test_a_result_stays_when_the_engine_runs_again(here: Runtime, target: Target, model: bytes) -> None:
    engine = here.open(model, target)
    (first,) = engine.run(feeds_of(engine, 1))
    kept = first.copy()
    engine.run(feeds_of(engine, 2))
    np.testing.assert_array_equal(first, kept)


def test_the_clock_times_it(here: Runtime, target: Target, model: bytes) -> None:
    engine = here.open(model, target)
    calls = {"it": engine.bind(feeds_of(engine))}
    try:
        found = device_runner.measure(calls, rounds=5, burst=3, attempts=2, cpu_time=engine.cpu_time)
    except device_runner.MeasurementRefused as error:
        pytest.skip(str(error))
    stats = found["candidates"]["it"]
    assert 0 < stats["min_ms"] <= stats["p50_ms"] <= stats["p90_ms"]
    assert (stats["cpu_p50_ms"] is not None) is engine.cpu_time


def test_one_thread_does_the_work_itself(here: Runtime, target: Target, model: bytes) -> None:
    """Where an engine promises it: its calls use about as much time of this thread as of the whole process."""
    engine = here.open(model, target)
    if not engine.cpu_time:
        pytest.skip("the work is done elsewhere")
    call = engine.bind(feeds_of(engine))
    for _ in range(20):
        call()
    import time

    mine, everyones = time.thread_time_ns(), time.process_time_ns()
    for _ in range(300):
        call()
    mine, everyones = time.thread_time_ns() - mine, time.process_time_ns() - everyones
    assert mine > 0.7 * everyones


def test_it_tells_what_kernels_take(here: Runtime, target: Target, model: bytes) -> None:
    plain = here.open(model, target)
    with pytest.raises(device_runner.NotInstrumented):
        plain.kernels()
    if not here.kernels:
        with pytest.raises(InputError):
            here.open(model, target, instrumented=True)
        return
    engine = here.open(model, target, instrumented=True)
    call = engine.bind(feeds_of(engine))
    for _ in range(4):
        call()
    kernels = engine.kernels()
    assert {len(kernel["runs_ms"]) for kernel in kernels} == {4}
    assert all(ms >= 0 for kernel in kernels for ms in kernel["runs_ms"])
    covered = {name for kernel in kernels for name in kernel["covers"]}
    assert all(kernel["covers"] and kernel["op"] for kernel in kernels)
    assert covered == ({"conv2d", "relu"} if here.model_format == "torch" else {"conv", "relu"})
    (x,) = feeds_of(engine).values()
    np.testing.assert_allclose(engine.run(feeds_of(engine))[0], expected(x), rtol=1e-4, atol=1e-5)
    engine.close()


def test_it_says_when_a_precision_does_not_exist(runtime: Runtime, target: Target) -> None:
    for precision in {"fp32", "fp16", "int8"} - set(runtime.precisions):
        with pytest.raises(InputError, match=f"no precision '{precision}'") as caught:
            runtime.open(b"", dataclasses.replace(target, precision=precision))
        assert "fp32" in caught.value.hint


def test_the_precision_of_a_target_is_the_models(here: Runtime, target: Target) -> None:
    if here.model_format != "onnx" or "int8" not in here.precisions:
        pytest.skip("int8 models are ONNX models")
    with pytest.raises(ModelError, match="the model is int8"):
        here.open(quantised_model(), target)
    int8 = dataclasses.replace(target, precision="int8")
    with pytest.raises(ModelError, match="the model is fp32"):
        here.open(onnx_model(), int8)
    engine = here.open(quantised_model(), int8)
    x = feeds_of(engine)["x"] / 4
    found = engine.run({"x": x})[0]
    assert np.linalg.norm(found - expected(x)) < 0.1 * np.linalg.norm(expected(x))


def test_it_says_when_a_model_cannot_be_opened(here: Runtime, target: Target, tmp_path: Path) -> None:
    for model in (b"", b"junk", tmp_path / "absent"):
        with pytest.raises(ModelError) as caught:
            here.open(model, target)
        assert caught.value.hint


def test_it_says_when_it_is_not_installed(runtime: Runtime, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install" in (runtime.unavailable() or "")
    with pytest.raises(InputError, match="cannot run here") as caught:
        runtime.open(b"", target)
    assert target.name in caught.value.message


def test_it_knows_its_device(here: Runtime) -> None:
    found = here.fingerprint()
    assert found["runtime"] == here.name
    assert found["runtime_version"][0].isdigit()
    assert device_runner.same_device(found, here.fingerprint()) == []


def test_unknown_operators_are_never_taken_for_fused(runtime: Runtime) -> None:
    for into in ("conv", "conv_transpose", "linear", "max_pool2d_with_indices", "cat"):
        for op in ("conv", "linear", "cat", "max_pool2d_with_indices", "silu", "mul", "", "unheard_of"):
            assert not runtime.fuses(op, into)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("worker", [False, True])
def test_its_files_for_a_device_stand_alone(runtime: Runtime, worker: bool, packed: bool) -> None:
    """Python 3.8; from hwprune nothing but what is beside them, and that only where they are part of it."""
    files = device_files(runtime.name, worker=worker, packed=packed)
    assert ("device_storage.py" in files) is packed
    assert {"device_runner.py", "device_facts.py"} <= set(files)
    assert ("worker.py" in files) is worker
    assert ("run.py" in files) is not worker
    for name, content in files.items():
        tree = ast.parse(content, name, feature_version=(3, 8))
        outside = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules = {alias.name for node in outside if isinstance(node, ast.Import) for alias in node.names}
        modules |= {str(node.module) for node in outside if isinstance(node, ast.ImportFrom)}
        assert all(module.partition(".")[0] in sys.stdlib_module_names for module in modules), name


def test_importing_targets_is_light() -> None:
    heavy = {"torch", "numpy", "onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "tensorrt"}
    code = f"import sys, hwprune.targets; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
