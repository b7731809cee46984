"""ncnn: conversion by pnnx, and what it cannot convert."""

from __future__ import annotations

import io
import subprocess
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune.device_runner import BadInput, NotInstrumented, example_feeds, open_engine
from hwprune.errors import InputError, ModelError
from hwprune.targets import ncnn as module
from hwprune.targets.ncnn import converted

from . import networks

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")


def two_outputs() -> bytes:
    net = networks.Network(1, 3, 4, 5)
    net.add("Relu", "x")
    net.add("Sigmoid", "x")
    model = net.model()
    model.graph.output.append(networks.helper.make_tensor_value_info("v0", networks.TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "model",
    [networks.residual().serialised(), networks.squeezing().serialised(), networks.dense().serialised(), two_outputs()],
    ids=["residual", "squeezing", "dense", "two_outputs"],
)
def test_a_converted_network_computes_the_same(model: bytes) -> None:
    reference, engine = open_engine(model), open_engine(converted(model), runtime="ncnn")
    assert (engine.inputs, engine.outputs) == (reference.inputs, reference.outputs)
    feeds = example_feeds(reference, seed=5)
    for mine, theirs in zip(engine.run(feeds), reference.run(feeds), strict=True):
        assert np.linalg.norm(mine - theirs) <= 1e-3 * np.linalg.norm(theirs)


def test_an_operator_that_ncnn_lacks_is_named() -> None:
    net = networks.Network(1, 3, 4, 4)
    net.add("Det", net.add("Relu", "x"))
    with pytest.raises(ModelError, match="ncnn has no Det") as caught:
        converted(net.serialised())
    assert "another runtime" in caught.value.hint


def test_what_pnnx_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 255, b"", b"so far so good\nno such thing as a Foo\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"pnnx cannot convert the model: .*no such thing as a Foo"):
        converted(networks.residual().serialised())


def test_pnnx_does_not_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.001)
    with pytest.raises(ModelError, match=r"did not convert the model in 0\.001 s"):
        converted(networks.residual().serialised())


def test_a_conversion_that_went_wrong_is_found_out() -> None:
    """pnnx 20261020 takes the row of a Gemm without bias for a column."""
    net = networks.Network(1, 8)
    net.add("Gemm", "x", net.constant(8, 4))
    if version("pnnx") != "20261020":
        pytest.skip(f"pnnx {version('pnnx')} may well be right")
    with pytest.raises(ModelError, match="pnnx made another network of the model"):
        converted(net.serialised())


def test_batches_are_refused() -> None:
    net = networks.Network(2, 3, 4, 4)
    net.conv("x", 3)
    with pytest.raises(ModelError, match=r"'x' is float32 \[2, 3, 4, 4\]: ncnn takes a batch of 1"):
        converted(net.serialised())


def test_no_onnx() -> None:
    with pytest.raises(ModelError):
        converted(b"junk")


@pytest.mark.parametrize("package", ["pnnx", "ncnn"])
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(InputError, match=f"^{package}") as caught:
        converted(networks.residual().serialised())
    assert "pip install" in caught.value.hint


@pytest.fixture(scope="module")
def archive() -> bytes:
    return converted(networks.residual().serialised())


def rewritten(archive: bytes, compression: int = zipfile.ZIP_STORED, **changes: bytes | None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        contents = {name: old.read(name) for name in old.namelist()}
        contents.update({name.replace("_", "."): content for name, content in changes.items()})
        for name, content in contents.items():
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"model_bin": None},
        {"model_bin": b"\0" * 8},
        {"model_param": b"junk"},
        {"model_param": b"7767517\n1 1\nDet a 1 1 x y\n"},
        {"ports_json": b"{}"},
        {"ports_json": b"["},
        {"ports_json": b'{"inputs": [], "outputs": []}'},
        {"extra": b""},
        {"compression": zipfile.ZIP_DEFLATED},
    ],
)
def test_archives_that_are_malformed(archive: bytes, changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="ncnn cannot open the model"):
        open_engine(rewritten(archive, **changes), runtime="ncnn")


def test_from_a_file(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(archive)
    assert open_engine(str(tmp_path / "model"), runtime="ncnn").inputs == open_engine(archive, runtime="ncnn").inputs
    with pytest.raises(BadInput, match="ncnn cannot open the model"):
        open_engine(str(tmp_path / "absent"), runtime="ncnn")


def test_it_times_whole_networks_only(archive: bytes) -> None:
    with pytest.raises(NotInstrumented, match="ncnn does not tell"):
        open_engine(archive, runtime="ncnn", instrumented=True)
    with pytest.raises(NotInstrumented):
        open_engine(archive, runtime="ncnn").kernels()


def test_inputs_of_another_shape(archive: bytes) -> None:
    engine = open_engine(archive, runtime="ncnn")
    with pytest.raises(BadInput, match="input 'x' is float32"):
        engine.run({"x": np.zeros((1, 3, 4, 4), np.float32)})
