"""A bundle's engine in other formats: each computes the same, or is not left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hwprune import device_runner
from hwprune.deploy import Storage, export_onnx, handover, verify, write_bundle
from hwprune.deploy.handover import FORMATS, folders_of, hand_over, parse_formats
from hwprune.deploy.triton import configuration, ports_in
from hwprune.errors import BundleError, InputError, ModelError, ParityError
from hwprune.targets import Target, load_target

HERE = load_target("local-onnxruntime", batch=2)
MAIN = {"onnx": "model.onnx", "ort": "model.ort", "openvino": "model.xml", "triton": "bundle/1/model.onnx"}


@pytest.fixture
def skip_without():
    def check(one):
        if reason := device_runner.engine_module(FORMATS[one][0]).available():
            pytest.skip(reason)

    return check


@pytest.fixture
def write(networks, exported, images, tmp_path):
    def call(name="UNet", **changes):
        given = {"engine": exported[name], "model": networks[name], "example": images, "target": HERE, **changes}
        return write_bundle(given.pop("path", tmp_path / "bundle"), **given)

    return call


@pytest.mark.parametrize("name", ["UNet", "Mobile"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_computes_what_the_model_computes(form, name, write, networks, tmp_path, skip_without):
    skip_without(form)
    bundle = write(name)
    (told,) = hand_over(bundle, [form])
    folder = tmp_path / f"bundle-{form}"
    assert told["folder"] == str(folder)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert {name: file["bytes"] for name, file in told["files"].items()} == files
    engine = device_runner.open_engine(str(folder / MAIN[form]), runtime=FORMATS[form][0])
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    (found,) = engine.run({"input": image.numpy()})
    with torch.no_grad():
        expected = networks[name](image).numpy()
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    assert 0 < told["relative_l2"] <= 1e-5
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert verify(bundle.path, latency=False)["ok"]


@pytest.mark.parametrize("form", [one for one in FORMATS if one != "ort"])  # which differs from time to time
def test_the_same_bytes_every_time(form, write, skip_without):
    skip_without(form)
    bundle = write()
    assert hand_over(bundle, [form]) == hand_over(bundle, [form])


def test_weights_stay_in_float32(write, tmp_path, skip_without):
    skip_without("openvino")
    hand_over(write(), ["openvino"])
    said = (tmp_path / "bundle-openvino/model.xml").read_text()
    assert 'element_type="f32"' in said
    assert 'element_type="f16"' not in said


def test_a_packed_engine_is_handed_over_plain(write, exported, tmp_path):
    bundle = write(storage=Storage.parse("gap8-xz"))
    assert not (bundle.path / "model.onnx").exists()
    hand_over(bundle, ["onnx"])
    assert (tmp_path / "bundle-onnx/model.onnx").read_bytes() == bundle.engine


def test_what_computes_something_else_is_not_left(write, exported, networks, tmp_path, monkeypatch):
    def wrong(content, place, bundle):
        torch.manual_seed(8)
        other = type(networks["UNet"])().eval()
        return export_onnx(other, torch.zeros(2, 3, 16, 16), place / "model.onnx").path

    bundle = write()
    monkeypatch.setitem(FORMATS, "ort", ("onnxruntime", wrong))
    with pytest.raises(ParityError, match="in format 'ort' the outputs differ from the golden ones"):
        hand_over(bundle, ["ort"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_what_has_other_ports_is_not_left(write, exported, tmp_path, monkeypatch):
    def wrong(content, place, bundle):
        (place / "model.onnx").write_bytes(exported["Mobile"].read_bytes())
        return place / "model.onnx"

    bundle = write()
    monkeypatch.setitem(FORMATS, "ort", ("onnxruntime", wrong))
    with pytest.raises(ParityError, match="in format 'ort' the outputs are"):
        hand_over(bundle, ["ort"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_a_changed_bundle_is_not_handed_over(write, tmp_path):
    bundle = write()
    (bundle.path / "golden.npz").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"golden\.npz was changed"):
        hand_over(bundle, ["onnx"])
    assert not (tmp_path / "bundle-onnx").exists()


def test_what_a_converter_says_is_passed_on(write, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no kernel for Foo")

    bundle = write()
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(ModelError, match="cannot write its own format: no kernel for Foo"):
        hand_over(bundle, ["ort"])


def test_formats_are_named():
    assert parse_formats("ort, triton,ort", HERE) == ("ort", "triton")
    with pytest.raises(InputError, match="format 'tflite' is unknown") as caught:
        parse_formats("ort,tflite", HERE)
    assert "onnx, ort, openvino, triton" in caught.value.hint
    with pytest.raises(InputError, match="target 'local-torch' takes torch"):
        parse_formats("ort", load_target("local-torch"))


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(handover.device_runner.engine_module("openvino"), "available", lambda: "no openvino; get it")
    with pytest.raises(InputError, match="format 'openvino' cannot be written: no openvino; get it"):
        parse_formats("openvino", HERE)


def test_folders_lie_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders_of(Path("out"), ["ort"]) == {"ort": tmp_path / "out-ort"}


PORTS = [
    {"name": 'a "quoted"\nname', "shape": [None, 3], "dtype": "int64"},
    {"name": "é", "shape": [], "dtype": "float16"},
]


@pytest.mark.parametrize(
    ("runtime", "kind", "accelerator"),
    [
        ("onnxruntime", "KIND_CPU", None),
        ("openvino", "KIND_CPU", "cpu_execution_accelerator"),
        ("onnxruntime-cuda", "KIND_GPU", None),
        ("onnxruntime-tensorrt", "KIND_GPU", "gpu_execution_accelerator"),
        ("tensorrt", "KIND_GPU", "gpu_execution_accelerator"),
    ],
)
def test_a_configuration_of_triton(runtime, kind, accelerator):
    text = configuration("net", PORTS, PORTS[:1], Target(name="t", runtime=runtime, threads=3))
    assert ports_in(text) == {"inputs": PORTS, "outputs": PORTS[:1]}
    assert "max_batch_size: 0" in text
    assert f"kind: {kind}" in text
    assert ('string_value: "3"' in text) is (kind == "KIND_CPU")
    assert ("accelerators" in text) is (accelerator is not None)
    assert accelerator is None or accelerator in text


def test_a_configuration_that_is_malformed():
    for text in ("input {", "colour: 3", 'max_batch_size: "many"'):
        with pytest.raises(ValueError, match=r"\d+:\d+"):
            ports_in(text)


def test_triton_has_no_such_type():
    with pytest.raises(ModelError, match="'x' is complex64"):
        configuration("net", [{"name": "x", "shape": [1], "dtype": "complex64"}], [], HERE)
