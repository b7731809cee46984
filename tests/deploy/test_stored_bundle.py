"""Bundles whose engine is packed: what they say, that they run alone, that nothing changed in them is opened."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.deploy import Bundle, Storage, export_onnx, pack, run_engine, unpack, verify, write_bundle
from hwprune.deploy.bundle import sealed
from hwprune.deploy.formats import engine_bytes
from hwprune.errors import BundleError, InputError, ParityError
from hwprune.targets import load_target, runtime_for

TARGET = load_target("local-onnxruntime")
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("hwprune", "onnx", "torch")))  # cannot be imported
sys.argv = ["run.py", "--no-latency", "--json"]
runpy.run_path("run.py", run_name="__main__")
"""
FORMS = ["gap8-int8-xz", "bitmask", "dense-fp16-zlib", "onnx", "onnx-int8"]


@pytest.fixture
def write(networks, exported, images, tmp_path):
    def call(form, **changes):
        given = {"engine": exported["UNet"], "model": networks["UNet"], "example": images, "target": TARGET, **changes}
        return write_bundle(tmp_path / "bundle", storage=Storage.parse(form), **given)

    return call


@pytest.mark.parametrize("form", FORMS)
def test_it_says_what_it_stores_and_runs_with_numpy_and_its_runtime_alone(write, exported, networks, images, form):
    bundle, storage = write(form), Storage.parse(form)
    engine, files = bundle.manifest["engine"], bundle.manifest["files"]
    packed = pack(exported["UNet"], storage)
    assert engine["file"] == ("model.packed" if storage.packed else "model.onnx")
    assert (engine["storage"], engine["packed_bytes"]) == (form, len(packed))
    assert engine["unpacked_bytes"] == exported["UNet"].stat().st_size
    assert (bundle.path / engine["file"]).read_bytes() == packed
    assert ("device_storage.py" in files) is storage.packed
    assert ("model.onnx" in files) is not storage.packed
    assert bundle.engine == unpack(packed)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], capture_output=True, text=True, timeout=240, cwd=bundle.path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [check["ok"] for check in json.loads(done.stdout)["checks"]] == [True, True]
    assert verify(bundle.path, latency=False)["ok"]


@pytest.mark.parametrize("form", ["gap8-int8-xz", "onnx-fp16", "gap8"])
def test_parity_and_golden_outputs_are_those_of_the_rounded_engine(write, networks, images, form):
    bundle, storage = write(form), Storage.parse(form)
    found = run_engine(runtime_for(TARGET).open(bundle.engine, TARGET), images[:2])[0]
    with np.load(bundle.path / "golden.npz") as golden, torch.no_grad():
        reference = networks["UNet"](images[:2])
        error = float((found - reference).norm() / reference.norm())
        kept = torch.from_numpy(golden["output_0"])
    if storage.precision == "fp32":
        assert torch.equal(kept, reference)
        assert bundle.manifest["parity"]["relative_l2"] < 1e-5
    else:
        assert torch.equal(kept, found)
        assert 1e-5 < error <= 1.1 * bundle.manifest["parity"]["relative_l2"] < 0.1
    assert bundle.manifest["golden"]["relative_l2"] == 1e-4


def test_a_wrong_export_is_not_packed(write, networks, tmp_path):
    """However much rounding may change: the engine as exported is held to the model."""
    other = type(networks["UNet"])().eval()
    with pytest.raises(ParityError, match="relative L2"):
        write("gap8-int8-xz", model=other)
    assert not (tmp_path / "bundle").exists()


def test_a_model_in_half(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 7)).half().eval()
    x = torch.randn(2, 3, 8, 8).half()
    engine = export_onnx(model, x, tmp_path / "m.onnx").path
    for form in ("gap8", "gap8-int8"):
        given = {"engine": engine, "model": model, "example": x, "target": TARGET}
        bundle = write_bundle(tmp_path / form, storage=Storage.parse(form), **given)
        assert bundle.manifest["outputs"][0]["dtype"] == "float16"
        assert verify(bundle.path, latency=False)["ok"]


def reseal(bundle, name, content):
    """What a forger would do."""
    (bundle.path / name).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest = {**bundle.manifest, "files": {**bundle.manifest["files"], name: record}}
    (bundle.path / "manifest.json").write_bytes(sealed(manifest))


def test_a_changed_engine_is_not_opened(write):
    bundle = write("gap8-int8-xz")
    content = bytearray((bundle.path / "model.packed").read_bytes())
    content[-30] ^= 4
    (bundle.path / "model.packed").write_bytes(content)
    assert [check["ok"] for check in verify(bundle.path)["checks"]] == [False]
    with pytest.raises(BundleError, match="was changed"):
        bundle.engine  # noqa: B018
    reseal(bundle, "model.packed", bytes(content))
    again = Bundle.load(bundle.path)
    with pytest.raises(BundleError, match="its checksum is another one"):
        again.engine  # noqa: B018
    with pytest.raises(BundleError, match="its checksum is another one"):
        verify(bundle.path)


def test_an_engine_larger_than_the_manifest_says_is_not_unpacked(write):
    bundle = write("gap8-xz")
    engine = {**bundle.manifest["engine"], "unpacked_bytes": 1000}
    (bundle.path / "manifest.json").write_bytes(sealed({**bundle.manifest, "engine": engine}))
    with pytest.raises(BundleError, match="at most 1"):
        verify(bundle.path)


def test_another_engine_in_its_place_fails_its_golden_outputs(write, exported, tmp_path):
    bundle = write("gap8-int8-xz")
    reseal(bundle, "model.packed", pack(exported["UNet"], Storage.parse("dense")))
    assert verify(bundle.path, latency=False)["checks"][-1]["ok"] is False


def test_a_runtime_that_converts_gets_the_unpacked_engine(write, tmp_path):
    target = load_target("local-openvino")
    if reason := runtime_for(target).unavailable():
        pytest.skip(reason)
    assert verify(write("gap8-int8-xz", target=target).path, latency=False)["ok"]


def test_a_runtime_of_another_format(write, networks, images, tmp_path):
    target = load_target("local-torch")
    (tmp_path / "engine").write_bytes(engine_bytes(networks["UNet"], images[:2], target))
    with pytest.raises(InputError, match="storage gap8 is a form of ONNX files"):
        write("gap8", target=target, engine=tmp_path / "engine")
    assert not (tmp_path / "bundle").exists()
