"""The same visits over ssh, from a kit and in this process, by the real worker: all ways tell the same things."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from hwprune import device_runner
from hwprune.errors import InputError, ModelError
from hwprune.targets import Target, known_targets, runtime_for
from hwprune.targets.connection import LocalConnection, SshConnection, UnpackedConnection, Visit, pack

from .conftest import Device


def model(nodes: int, shape: tuple[int, ...] = (1, 16, 32, 32)) -> bytes:
    """A chain of additions."""
    names = [f"x{index}" for index in range(nodes + 1)]
    graph = helper.make_graph(
        [helper.make_node("Add", [a, a], [b], name=f"node{b}") for a, b in itertools.pairwise(names)],
        "chain",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(made.SerializeToString())


FIXED = {"null": model(1, (1, 1)), "anchor": model(2)}
TARGETS = [
    target
    for target in known_targets().values()
    if runtime_for(target).model_format == "onnx" and not runtime_for(target).unavailable()
]


def asked(**changes: Any) -> Visit:
    """Easily content: this is about forms, and the machine that runs the tests may be busy."""
    settings = {"rounds": 5, "burst": 3, "max_seconds": 2.0, "min_clean": 0.01, **changes}
    return Visit(**{"id": "v", "models": {"a": model(3), "b": model(5)}, "instrumented": ("a",), **settings})


def by_kit(folder: Path, target: Target, visits: list[Visit]) -> UnpackedConnection:
    pack(visits, target, **FIXED, path=folder / "kit.tar")
    with tarfile.open(folder / "kit.tar") as kit:
        kit.extractall(folder, filter="data")
    command = [sys.executable, "worker.py", "."]
    subprocess.run(command, cwd=folder / "hwprune-kit", check=True, timeout=300, capture_output=True)
    return UnpackedConnection(folder / "hwprune-kit", target, **FIXED)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_way_gives_the_same_form(sshd: Device, tmp_path: Path, target: Target) -> None:
    kernels = ("a",) if runtime_for(target).kernels else ()
    visits = [asked(instrumented=kernels), asked(id="w", models={"c": model(2)}, instrumented=())]
    remote = dataclasses.replace(sshd.target, runtime=target.runtime)
    ways = [LocalConnection(target, **FIXED), SshConnection(remote, **FIXED), by_kit(tmp_path, remote, visits)]
    forms = []
    for way in ways:
        with way as connection:
            device, replies = connection.fingerprint(), list(connection.run(visits))
        assert device_runner.same_device(device, runtime_for(target).fingerprint()) == []
        assert [reply["id"] for reply in replies] == ["v", "w"]
        first = replies[0]["candidates"]
        assert 0 < first["null"]["p50_ms"] < 1e3
        forms.append([form(reply) for reply in replies])
    assert forms[0] == forms[1] == forms[2]
    assert sshd.folders == []


def form(value: Any) -> Any:
    """What is where, without the numbers."""
    if isinstance(value, dict):
        return {key: form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [form(inner) for inner in value if isinstance(inner, (dict, str))]
    return value if isinstance(value, str) else ""


def test_a_model_that_cannot_be_opened(sshd: Device) -> None:
    with SshConnection(sshd.target, **FIXED) as connection, pytest.raises(ModelError, match="measuring v"):
        list(connection.run([asked(models={"a": b"junk"})]))
    assert sshd.folders == []


def test_a_device_without_numpy(sshd: Device, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=120)
    python = str(tmp_path / "bare" / "bin" / "python")
    target = dataclasses.replace(sshd.target, python=python)
    with SshConnection(target, **FIXED) as connection, pytest.raises(InputError) as caught:
        connection.fingerprint()
    assert caught.value.message == "numpy is not installed on ssh://device"
    assert caught.value.hint == f"run there: {python} -m pip install numpy onnxruntime"
    assert sshd.folders == []


def test_a_device_without_the_runtime(sshd: Device) -> None:
    absent = [name for name, target in known_targets().items() if runtime_for(target).unavailable()]
    if not absent:
        pytest.skip("every runtime is installed here")
    remote = dataclasses.replace(sshd.target, runtime=known_targets()[absent[0]].runtime)
    with SshConnection(remote, **FIXED) as connection, pytest.raises(InputError) as caught:
        list(connection.run([asked()]))
    assert caught.value.hint
    assert sshd.folders == []
