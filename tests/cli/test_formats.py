"""``export --format``: the engine in other formats beside the bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune import device_bundle, device_runner
from hwprune.deploy.triton import ports_in

from .workshop import MODEL


@pytest.mark.parametrize("what", ["finished", f"{MODEL} --weights weights.pt"])
def test_a_run_or_a_model_is_handed_over(hwprune: Any, workshop: Path, what: str) -> None:
    answer = hwprune(f"export {what} --output out --format ort,triton --json")
    assert answer.status == 0, answer.err
    told = {one["format"]: one for one in json.loads(answer.out)["formats"]}
    assert told["ort"]["files"].keys() == {"model.ort"}
    assert told["triton"]["files"].keys() == {"out/config.pbtxt", "out/1/model.onnx"}
    manifest = json.loads(Path("out/manifest.json").read_text())
    ports = {end: manifest[end] for end in ("inputs", "outputs")}
    assert ports_in(Path("out-triton/out/config.pbtxt").read_text()) == ports
    assert Path("out-triton/out/1/model.onnx").read_bytes() == Path("out/model.onnx").read_bytes()
    image = {"input": np.random.default_rng(4).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    (found,) = device_runner.open_engine("out-ort/model.ort").run(image)
    (expected,) = device_runner.open_engine("out/model.onnx").run(image)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert hwprune("verify out --no-latency").status == 0


def test_what_was_written_is_said(hwprune: Any, workshop: Path) -> None:
    answer = hwprune("export finished --output out --format onnx")
    assert answer.out.splitlines()[0] == "out"
    assert "out-onnx: model.onnx, relative L2 error" in answer.out


def test_nothing_is_handed_over_unasked(hwprune: Any, workshop: Path) -> None:
    before = set(workshop.iterdir())
    assert "formats" not in json.loads(hwprune("export finished --output out --json").out)
    assert set(workshop.iterdir()) - before == {workshop / "out"}


def test_an_open_batch_stays_open(hwprune: Any, workshop: Path) -> None:
    if reason := device_runner.engine_module("openvino").available():
        pytest.skip(reason)
    answer = hwprune(f"export {MODEL} --weights weights.pt --dynamic-batch --output out --format ort,openvino,triton")
    assert answer.status == 0, answer.err
    assert ports_in(Path("out-triton/out/config.pbtxt").read_text())["inputs"][0]["shape"] == [None, 3, 8, 8]
    images = {"input": np.random.default_rng(4).standard_normal((5, 3, 8, 8)).astype(np.float32)}
    (expected,) = device_runner.open_engine("out/model.onnx").run(images)
    assert expected.shape == (5, 2)
    for file, runtime in (("out-ort/model.ort", "onnxruntime"), ("out-openvino/model.xml", "openvino")):
        (found,) = device_runner.open_engine(file, runtime=runtime).run(images)
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.save("images.npy", images["input"])
    assert device_bundle.main(["infer", "images.npy", "--bundle", "out", "--output", "found.npz"]) == 0
    with np.load("found.npz") as found:
        assert np.allclose(next(iter(found.values())), expected, rtol=1e-4, atol=1e-6)
