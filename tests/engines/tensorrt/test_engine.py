"""The engine, all of it, against TensorRT 10.3 and 11.4 as their bindings declare themselves; see ``machine.py``."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprune.device_runner import BadInput, NotInstrumented, example_feeds, measure, open_engine
from hwprune.device_worker import Kept, run_visit
from hwprune.engines import cudart
from hwprune.engines.tensorrt_engine import Engine, available, version
from hwprune.engines.tensorrt_plan import Build


def serialised(nodes: list[Any], constants: list[Any], dtype: int = TensorProto.FLOAT, batch: Any = 2) -> bytes:
    ports = [helper.make_tensor_value_info(name, dtype, [batch, 3]) for name in ("x", "y", "z")]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def network(dtype: int = TensorProto.FLOAT, *, factor: float = 2.0, batch: Any = 2) -> bytes:
    """z = relu(factor · (x + y)) + x, in four nodes."""
    nodes = [
        helper.make_node("Add", ["x", "y"], ["a"], name="add"),
        helper.make_node("Mul", ["a", "c"], ["b"], name="/scale/Mul"),
        helper.make_node("Relu", ["b"], ["d"], name="relu[0]"),
        helper.make_node("Add", ["d", "x"], ["z"], name="add_1"),
    ]
    constant = numpy_helper.from_array(np.array(factor, helper.tensor_dtype_to_np_dtype(dtype)), "c")
    return serialised(nodes, [constant], dtype, batch)


def quantised() -> bytes:
    """z = x + y in int8, as Q/DQ nodes say it."""
    scale, zero = (numpy_helper.from_array(np.array(v, t), n) for v, t, n in ((0.5, "f4", "s"), (0, "i1", "o")))
    nodes = [helper.make_node("QuantizeLinear", [name, "s", "o"], [f"{name}q"], name=f"q{name}") for name in "xy"]
    nodes += [helper.make_node("DequantizeLinear", [f"{n}q", "s", "o"], [f"{n}d"], name=f"d{n}") for n in "xy"]
    return serialised([*nodes, helper.make_node("Add", ["xd", "yd"], ["z"], name="add")], [scale, zero])


X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
FEEDS = {"x": X, "y": np.full((2, 3), 0.5, np.float32)}
EXPECTED = np.maximum(2 * (X + 0.5), 0) + X


def test_it_runs_a_model(fake: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(network())
    for model in (network(), str(tmp_path / "model.onnx")):
        engine = open_engine(model, runtime="tensorrt")
        assert engine.inputs == [{"name": n, "shape": [2, 3], "dtype": "float32"} for n in "xy"]
        assert engine.outputs == [{"name": "z", "shape": [2, 3], "dtype": "float32"}]
        assert engine.cpu_time is False
        for _ in range(2):
            np.testing.assert_array_equal(engine.run(FEEDS)[0], EXPECTED)
        turned = {**FEEDS, "x": np.asfortranarray(X)}
        np.testing.assert_array_equal(engine.run(turned)[0], EXPECTED)
        engine.run(example_feeds(engine))
    assert len(fake.builds) == 1


def test_numbers_go_in_and_out(fake: Any) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in "xz"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["z"], name="n")], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    engine = Engine(model.SerializeToString())
    assert engine.outputs == [{"name": "z", "shape": [], "dtype": "int64"}]
    assert engine.run({"x": np.array(3)}) == [6]


def test_a_bound_call_is_timed_by_the_gpu(fake: Any) -> None:
    engine = Engine(network())
    call = engine.bind(FEEDS)
    for fake.execute_ms in (2.0, 3.0, 2.0):
        assert call() == pytest.approx(fake.execute_ms * 1e6)  # neither the launch nor a copy is in it
    assert call.clock == "cuda_events, without transfers"
    moved = engine.bind(FEEDS, transfers=True)
    assert moved() == pytest.approx(2.0e6 + 3 * 0.25e6)
    assert moved.clock == "cuda_events, with transfers"
    found = measure({"call": call}, cpu_time=engine.cpu_time, rounds=5)
    assert found["clock"] == call.clock
    assert found["candidates"]["call"]["p50_ms"] == pytest.approx(2.0)


def test_a_bound_call_works_on_what_it_was_given(fake: Any) -> None:
    engine = Engine(network())
    call = engine.bind(FEEDS)
    call()
    results = np.empty((2, 3), np.float32)
    engine._copy_out({"z": results.ctypes.data})
    engine._cuda("cudaStreamSynchronize", engine._stream)
    np.testing.assert_array_equal(results, EXPECTED)


def test_copies_are_part_of_a_call_with_transfers(fake: Any) -> None:
    engine = Engine(network())
    call = engine.bind(FEEDS, transfers=True)
    pinned = [block for block in fake.gpu.alive.values() if getattr(block, "kind", "") == "pinned"]
    assert len(pinned) == 3
    pinned[0][:] = X.tobytes()
    pinned[2][:] = bytes(24)
    call()
    np.testing.assert_array_equal(np.frombuffer(pinned[2].raw, np.float32).reshape(2, 3), EXPECTED)


def test_kernels_with_the_nodes_that_run_in_them(fake: Any) -> None:
    engine = Engine(network(), instrumented=True)
    assert engine.kernels() == []
    call = engine.bind(FEEDS)  # one call of its own
    call()
    np.testing.assert_array_equal(engine.run(FEEDS)[0], EXPECTED)
    found = engine.kernels()
    assert [kernel["covers"] for kernel in found] == [
        ["add", "/scale/Mul"],  # reformats an input for the kernel that reads it
        ["add", "/scale/Mul"],
        ["add", "/scale/Mul"],  # reformats what that kernel computed
        ["relu[0]", "add_1"],
    ]
    assert [kernel["op"] for kernel in found] == ["Reformat", "CaskConvolution", "Reformat", "CaskConvolution"]
    for index, kernel in enumerate(found):
        assert kernel["runs_ms"] == pytest.approx([0.1 * (index + 1)] * 3)


def test_kernels_must_be_asked_for(fake: Any) -> None:
    with pytest.raises(NotInstrumented, match="opened without timing its kernels"):
        Engine(network()).kernels()
    plan = bytes(b"plan:LAYER_NAMES_ONLY:full:" + network())
    assert Engine(plan, trusted_plan=True).run(FEEDS)
    with pytest.raises(NotInstrumented, match="without detailed profiling verbosity"):
        Engine(plan, trusted_plan=True, instrumented=True)


def test_kernels_that_change_are_not_reported(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(network(), instrumented=True)
    engine.run(FEEDS)
    monkeypatch.setattr(fake, "_layers", lambda _: [{"Name": "another"}])
    engine.run(FEEDS)
    with pytest.raises(NotInstrumented, match="the same kernels in every call"):
        engine.kernels()


def test_engines_of_one_model_share_the_plan(fake: Any) -> None:
    plain, instrumented = Engine(network()), Engine(network(), instrumented=True)
    assert plain._plan is instrumented._plan
    assert len(fake.builds) == 1
    Engine(network(factor=3.0))
    Engine(network(), build=Build(optimization_level=1))
    assert len(fake.builds) == 3
    plain.close()
    instrumented.close()
    Engine(network())
    assert len(fake.builds) == 4  # the plan went with the last engine


def test_everything_is_given_back(fake: Any) -> None:
    engine = Engine(network())
    engine.bind(FEEDS)()
    engine.bind(FEEDS, transfers=True)()
    assert len(fake.gpu.alive) > 10
    engine.close()
    engine.close()
    assert fake.gpu.alive == {}
    forgotten = Engine(network())
    forgotten.run(FEEDS)
    assert fake.gpu.alive
    del forgotten
    gc.collect()
    assert fake.gpu.alive == {}
    fake.gpu.failing = "cudaMalloc"
    with pytest.raises(BadInput, match="cannot open the model: cudaMalloc: out of memory"):
        Engine(network())
    assert fake.gpu.alive == {}


FLAGS = {
    ("10.3", "fp32"): {"TF32"},
    ("10.3", "fp16"): {"TF32", "FP16"},
    ("10.3", "int8"): {"TF32", "INT8"},
    ("11.4", "fp32"): {"TF32"},
    ("11.4", "fp16"): {"TF32"},
    ("11.4", "int8"): {"TF32"},
}


def major_minor(fake: Any) -> str:
    return ".".join(fake.package.module.__version__.split(".")[:2])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_is_in_the_model_and_up_to_tensorrt_10_a_flag(fake: Any, precision: str) -> None:
    model = {"fp32": network(), "fp16": network(TensorProto.FLOAT16), "int8": quantised()}[precision]
    feeds = {name: array.astype("float16" if precision == "fp16" else "float32") for name, array in FEEDS.items()}
    expected = X + 0.5 if precision == "int8" else EXPECTED
    np.testing.assert_array_equal(Engine(model, precision=precision).run(feeds)[0], expected)
    assert fake.builds[-1]["flags"] == FLAGS[major_minor(fake), precision]


def test_a_model_that_falls_short_of_the_precision_is_refused(fake: Any) -> None:
    for model in (network(), network(TensorProto.FLOAT16)):
        with pytest.raises(BadInput, match="precision int8, but the model has no QuantizeLinear nodes"):
            Engine(model, precision="int8")
    if major_minor(fake) == "10.3":  # there, the builder may make it so
        Engine(network(), precision="fp16")
        assert "FP16" in fake.builds[-1]["flags"]
    else:
        with pytest.raises(BadInput, match="nothing in the model is float16: from TensorRT 11 on the model decides"):
            Engine(network(), precision="fp16")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_visit(fake: Any, precision: str) -> None:
    models = {"net": network(TensorProto.FLOAT16) if precision == "fp16" else quantised(), "plain": network()}
    request = {
        **{"id": "1", "runtime": "tensorrt", "threads": 1, "precision": precision, "seed": 0},
        **{"models": {"n": "net"}, "instrumented": ["n"], "null": "plain", "anchor": "plain"},
        **{"rounds": 5, "burst": 2, "attempts": 3, "max_seconds": 5.0, "min_clean": 0.0},
    }
    reply = run_visit(request, models, Kept())
    assert set(reply) == {"id", "candidates", "kernels", "clock", "contention"}
    assert {name: one["p50_ms"] for name, one in reply["candidates"].items()} == pytest.approx(
        dict.fromkeys(("null", "anchor", "n", "n+kernels"), 2.0)
    )
    assert [kernel["p50_ms"] for kernel in reply["kernels"]["n"]] == pytest.approx(
        [0.1 * (index + 1) for index in range(len(reply["kernels"]["n"]))]
    )
    assert len(fake.builds) == 2
    assert fake.gpu.alive == {}


def test_how_a_plan_is_built(fake: Any) -> None:
    Engine(network())
    plain = {"flags": {"TF32"}, "known": b"", "workspace": None, "level": 3, "compatibility": "NONE"}
    assert fake.builds[-1] == plain
    build = Build(
        workspace_bytes=1 << 20,
        optimization_level=5,
        tf32=False,
        version_compatible=True,
        hardware_compatibility="AMPERE_PLUS",
    )
    np.testing.assert_array_equal(Engine(network(), build=build).run(FEEDS)[0], EXPECTED)
    assert fake.builds[-1] == {
        "flags": {"VERSION_COMPATIBLE"},
        "known": b"timed;",
        "workspace": 1 << 20,
        "level": 5,
        "compatibility": "AMPERE_PLUS",
    }
    same = Build(hardware_compatibility="SAME_COMPUTE_CAPABILITY")
    if major_minor(fake) == "11.4":
        Engine(network(), build=same)
    else:
        with pytest.raises(BadInput, match=r"TensorRT 10\.3\.0 has no hardware compatibility 'SAME_COMPUTE_CAPABIL"):
            Engine(network(), build=same)


def test_what_the_builder_timed_is_kept(fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    build = Build(timing_cache=str(path))
    Engine(network(), build=build)
    assert path.read_bytes() == b"timed;"
    Engine(network(factor=3), build=build)
    assert [one["known"] for one in fake.builds] == [b"", b"timed;"]
    assert path.read_bytes() == b"timed;timed;"
    assert list(tmp_path.iterdir()) == [path]
    Engine(network(factor=4))
    assert fake.builds[-1]["known"] == b""  # that of this process is another one


@pytest.mark.parametrize("content", [b"another GPU's", b"damaged"])
def test_timings_of_another_gpu_are_not_used(fake: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cache"
    path.write_bytes(content)
    Engine(network(), build=Build(timing_cache=str(path)))
    assert fake.builds[-1]["known"] == b""
    assert path.read_bytes() == b"timed;"


def test_models_that_cannot_be_opened(fake: Any, tmp_path: Path) -> None:
    unknown = network().replace(b"Relu", b"Det\n")
    det = onnx.load_model_from_string(network())
    det.graph.node[2].op_type = "Det"
    words = {
        b"": "not read as ONNX: ModelImporter: Failed to parse ONNX model",
        unknown: "not read as ONNX",
        det.SerializeToString(): r"no importer registered \(node 'relu\[0\]', Det\)",
        network(batch="batch"): "not built: no optimization profile has been defined$",
        str(tmp_path / "absent.onnx"): "No such file",
    }
    for model, message in words.items():
        with pytest.raises(BadInput, match=f"tensorrt cannot open the model: .*{message}"):
            Engine(model)
    assert fake.gpu.alive == {}


def test_a_plan_is_opened_only_when_it_is_trusted(fake: Any) -> None:
    plan = b"plan:DETAILED:lean:" + network()
    with pytest.raises(BadInput, match="not read as ONNX"):
        Engine(plan)
    np.testing.assert_array_equal(Engine(plan, trusted_plan=True).run(FEEDS)[0], EXPECTED)
    assert fake.builds == []
    with pytest.raises(BadInput, match="not opened as a plan: Magic tag does not match"):
        Engine(network(), trusted_plan=True)


def test_inputs_that_do_not_fit_never_reach_the_gpu(fake: Any) -> None:
    engine = Engine(network())
    for bad in (X[:1], X.astype("float64"), X.ravel()):
        for use in (engine.run, engine.bind):
            with pytest.raises(BadInput, match=r"input 'x' is float.*the model's is"):
                use({**FEEDS, "x": bad})
    with pytest.raises(KeyError):
        engine.run({"x": X})


def test_shapes_and_types_that_it_cannot_feed(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    types = fake.package.types
    monkeypatch.setattr(fake, "ICudaEngine_get_tensor_dtype", lambda *_, **__: types["DataType"].BF16)
    with pytest.raises(BadInput, match="Could not resolve TensorRT datatype"):
        Engine(network())
    monkeypatch.setattr(fake, "ICudaEngine_get_tensor_location", lambda *_, **__: types["TensorLocation"].HOST)
    with pytest.raises(BadInput, match=r"'x' has no fixed shape: \[2, 3\]"):
        Engine(network())


def test_an_address_that_is_not_taken(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "IExecutionContext_set_tensor_address", lambda *_, **__: False)
    with pytest.raises(BadInput, match="no place for 'x'"):
        Engine(network())


def test_a_failed_run_says_why(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(network())

    def fail(context: Any, stream_handle: int) -> bool:
        fake._log(engine._plan.log, "WARNING", "of no interest")
        fake._log(engine._plan.log, "ERROR", "an illegal memory access")
        return False

    monkeypatch.setattr(fake, "IExecutionContext_execute_async_v3", fail)
    for use in (engine.run, engine.bind):
        with pytest.raises(RuntimeError, match="cannot run the model: an illegal memory access"):
            use(FEEDS)


def test_what_is_missing_is_said(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() is None
    assert version() == fake.package.module.__version__
    fake.gpu.devices = 0
    cudart.load.cache_clear()
    assert available() == (
        "the package tensorrt is installed, but cannot run here: "
        "no GPU that CUDA can use: cudaGetDeviceCount: no CUDA-capable device is detected"
    )
    with pytest.raises(BadInput, match="no CUDA-capable device"):
        Engine(network())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install tensorrt-cu13" in (available() or "")
    assert "JetPack" in (available() or "")
