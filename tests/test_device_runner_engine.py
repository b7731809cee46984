"""The clock's engines, and what it knows about a device."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwprune import device_runner
from hwprune.device_runner import BadInput


def model_bytes(shape: list[Any], dtype: int = TensorProto.FLOAT, op: str = "Mul") -> bytes:
    """y = x op x."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_an_engine_runs_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes([2, 3]))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for model in (str(path), path.read_bytes()):
        engine = device_runner.open_engine(model)
        assert engine.inputs == [{"name": "x", "shape": [2, 3], "dtype": "float32"}]
        assert engine.outputs == [{"name": "y", "shape": [2, 3], "dtype": "float32"}]
        np.testing.assert_array_equal(engine.run({"x": x})[0], x * x)


def test_the_bound_call_computes_the_same() -> None:
    engine = device_runner.open_engine(model_bytes([2, 3]), threads=2)
    call: Any = engine.bind({"x": np.arange(6, dtype=np.float32).reshape(3, 2).T})  # not contiguous
    binding = call.args[0]
    for _ in range(2):
        call()
        np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), [[0, 4, 16], [1, 9, 25]])


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.INT64, "int64")],
)
def test_example_feeds_fit(dtype: int, name: str) -> None:
    engine = device_runner.open_engine(model_bytes(["batch", 4], dtype))
    assert engine.inputs == [{"name": "x", "shape": [None, 4], "dtype": name}]
    feeds = device_runner.example_feeds(engine, seed=3)
    assert feeds["x"].shape == (1, 4)
    assert feeds["x"].dtype == name
    np.testing.assert_array_equal(engine.run(feeds)[0], feeds["x"] * feeds["x"])
    np.testing.assert_array_equal(device_runner.example_feeds(engine, seed=3)["x"], feeds["x"])
    if name != "int64":
        assert (device_runner.example_feeds(engine, seed=4)["x"] != feeds["x"]).all()


@pytest.mark.parametrize("model", [b"", b"not a model", "absent.onnx"])
def test_a_model_that_cannot_be_opened(model: Any) -> None:
    with pytest.raises(BadInput, match="cannot open the model"):
        device_runner.open_engine(model)


def test_an_unknown_runtime() -> None:
    with pytest.raises(BadInput, match="unknown runtime 'abacus'; there are onnxruntime, "):
        device_runner.open_engine(b"", runtime="abacus")


def test_the_fingerprint_of_this_machine() -> None:
    found = device_runner.fingerprint()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert device_runner.same_device(found, json.loads(json.dumps(found))) == []
    assert found["cpu"]
    assert found["logical_cpus"] >= found["affinity_cpus"] >= 1
    assert found["memory_bytes"] > 1 << 20
    assert found["numpy"] == np.__version__


RASPBERRY = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm asimddp fphp\nCPU part\t: 0xd0b\n"
XEON = "processor\t: 0\nmodel name\t: Xeon : 9\nflags\t\t: fpu sse2 sse4_2 avx2 avx512f\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("files", "cpu", "isa", "cgroup_cpus"),
    [
        ({"/proc/cpuinfo": RASPBERRY, "/proc/device-tree/model": "Pi 5\0"}, "Pi 5 0xd0b", "asimd asimddp fphp", None),
        ({"/proc/cpuinfo": XEON, "/sys/fs/cgroup/cpu.max": "max 100000\n"}, "Xeon : 9", "avx2 avx512f sse4_2", None),
        ({"/proc/cpuinfo": XEON, "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, "Xeon : 9", "avx2 avx512f sse4_2", 1.5),
        (
            {
                "/proc/cpuinfo": XEON,
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            "Xeon : 9",
            "avx2 avx512f sse4_2",
            2.0,
        ),
        (
            {"/proc/cpuinfo": XEON, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"},
            "Xeon : 9",
            "avx2 avx512f sse4_2",
            None,
        ),
    ],
)
def test_fingerprints_of_other_machines(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpu: str, isa: str, cgroup_cpus: float | None
) -> None:
    def read_text(path: Path, **_: Any) -> str:
        if str(path) not in files:
            raise OSError(95, "Operation not supported", str(path))
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    found = device_runner.fingerprint()
    assert found["cpu"] == cpu
    assert found["isa"] == isa.split()
    assert found["cgroup_cpus"] == cgroup_cpus
    assert found["governor"] is None


def test_devices_that_differ() -> None:
    device = {
        "cpu": "A",
        "isa": ["avx2"],
        "machine": "x86_64",
        "runtime": "onnxruntime",
        "runtime_version": "1.31.1",
        "python": "3.11",
    }
    assert device_runner.same_device(device, {**device, "runtime_version": "1.31.9", "python": "3.13"}) == []
    assert device_runner.same_device(device, {**device, "runtime_version": "1.32.1"}) == ["runtime_version"]
    assert device_runner.same_device(device, {**device, "cpu": "B", "isa": []}) == ["cpu", "isa"]
    assert device_runner.same_device(device, {}) == ["cpu", "isa", "machine", "runtime", "runtime_version"]


def test_the_runner_stands_alone() -> None:
    """It is copied into bundles: nothing of hwprune is imported, `resource` only where it exists."""
    tree = ast.parse(Path(device_runner.__file__).read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    everywhere = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported | everywhere if name.split(".")[0] == "hwprune"}
    assert "resource" not in imported
