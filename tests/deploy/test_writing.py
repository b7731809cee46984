import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from hwprune.deploy import Bundle, export_onnx, verify, write_bundle
from hwprune.deploy.formats import engine_bytes
from hwprune.errors import BundleError, InputError, ParityError
from hwprune.targets import Target, load_target, runtime_for

TARGET = load_target("local-onnxruntime")


@pytest.fixture
def write(networks, exported, images, tmp_path):
    def call(**changes):
        given = {"engine": exported["UNet"], "model": networks["UNet"], "example": images, "target": TARGET, **changes}
        return write_bundle(given.pop("path", tmp_path / "bundle"), **given)

    return call


def test_manifest_holds_what_is_known(write, exported):
    measured = {"p50_ms": 1.0, "p90_ms": 1.2}
    manifest = write(
        manifest={
            "preprocessing": {"mean": [0.5]},
            "predicted_latency_ms": 1.1,
            "measured_latency": measured,
            "baseline_latency": {"p50_ms": 2.0},
            "latency_ratio": [0.5, 0.49, 0.51],
            "accuracy": {"metric": "dice", "source": 0.9, "artifact": 0.9},
            "budget": {"metric": "latency_ms", "limit": 1.05},
            "device": {"cpu": "x"},
            "versions": {"python": "3"},
        }
    ).manifest
    ours = {"device_runner", "device_verbs", "device_input", "device_image", "device_facts", "onnxruntime_engine"}
    files = {"model.onnx", "golden.npz", "run.py", "onnx_graph.py", *(f"{name}.py" for name in ours)}
    assert set(manifest["files"]) == files
    assert manifest["files"]["model.onnx"]["bytes"] == exported["UNet"].stat().st_size
    assert manifest["engine"] == {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1, "precision": "fp32"}
    assert manifest["inputs"] == [{"name": "input", "shape": [2, 3, 16, 16], "dtype": "float32"}]
    assert manifest["outputs"] == [{"name": "output", "shape": [2, 2, 16, 16], "dtype": "float32"}]
    assert (manifest["latency"]["measured_ms"], manifest["latency"]["predicted_ms"]) == (measured, 1.1)
    assert manifest["parity"]["samples"] == 9
    assert {"python", "hwprune", "torch", "onnx"} <= set(manifest["versions"])
    assert manifest["preprocessing"] == {"mean": [0.5]}


def test_what_is_not_known_is_said_to_be_unknown(write):
    manifest = write().manifest
    assert manifest["latency"]["measured_ms"] is None
    assert manifest["device"] is manifest["accuracy"] is manifest["budget"] is None


def test_golden_outputs_are_torchs_on_the_first_batch(write, networks, images):
    bundle = write()
    with np.load(bundle.path / "golden.npz") as golden, torch.no_grad():
        assert np.array_equal(golden["input_0"], images[:2])
        assert np.array_equal(golden["output_0"], networks["UNet"](images[:2]))


def test_engine_for_a_device_out_of_reach(write):
    bundle = write(target=Target(name="pi", threads=4, connection="none"))
    assert bundle.target.name == "pi"
    assert verify(bundle.path, latency=False)["ok"]


@pytest.mark.parametrize(
    ("runtime", "file"),
    [("openvino", "model.onnx"), ("torch", "model.pt2"), ("ncnn", "model.ncnn.zip")],
)
def test_engine_for_another_runtime(networks, images, tmp_path, runtime, file):
    target = load_target(f"local-{runtime}")
    if reason := runtime_for(target).unavailable():
        pytest.skip(reason)
    (tmp_path / "engine").write_bytes(engine_bytes(networks["Mobile"], images[:1], target))
    model, engine = networks["Mobile"], tmp_path / "engine"
    bundle = write_bundle(tmp_path / "bundle", engine=engine, model=model, example=images, target=target)
    assert bundle.manifest["engine"]["file"] == file
    assert f"{runtime}_engine.py" in bundle.manifest["files"]
    command = [sys.executable, "-I", str(bundle.path / "run.py"), "--no-latency", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [check["ok"] for check in json.loads(done.stdout)["checks"]] == [True, True]


def test_several_inputs(tmp_path):
    class Sum(torch.nn.Module):
        def forward(self, a, b):
            return a + b, a - b

    inputs = (torch.rand(1, 4), torch.rand(1, 4))
    info = export_onnx(Sum(), inputs, tmp_path / "m.onnx")
    bundle = write_bundle(tmp_path / "b", engine=info.path, model=Sum(), example=inputs, target=TARGET)
    assert bundle.manifest["golden"]["inputs"] == {"input_0": "input_0", "input_1": "input_1"}
    assert verify(bundle.path, latency=False)["ok"]


def left(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"example": torch.zeros(2, 3, 16, 16) / 0}, ParityError, "nan"),
        ({"example": torch.ones(1, 3, 16, 16)}, InputError, "1 inputs were given for an engine of batch 2"),
        ({"manifest": {"latency": 3}}, ValueError, "unknown manifest keys"),
        ({"manifest": {"predicted_latency_ms": float("nan")}}, ValueError, "not JSON compliant"),
        ({"target": Target(name="t", precision="int8")}, InputError, "int8"),
        ({"target": Target(name="t", precision="fp16")}, InputError, "nothing in the model is float16"),
        ({"target": Target(name="t", runtime="abacus")}, InputError, "abacus"),
    ],
)
def test_refusals_leave_nothing(write, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        write(**changes)
    assert left(tmp_path) == []


def test_engine_of_another_network_is_not_bundled(write, exported, networks, tmp_path):
    torch.manual_seed(5)
    other = type(networks["UNet"])().eval()
    with pytest.raises(ParityError, match="relative L2"):
        write(model=other)
    assert left(tmp_path) == []


def test_missing_engine(write, tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        write(engine=tmp_path / "none.onnx")


def test_what_is_there_stays(write, tmp_path):
    (tmp_path / "bundle").mkdir()
    write()  # an empty folder may be filled
    before = (tmp_path / "bundle/manifest.json").read_bytes()
    with pytest.raises(BundleError, match="exists"):
        write()
    assert (tmp_path / "bundle/manifest.json").read_bytes() == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match="exists"):
        write(path=tmp_path / "file")


def test_place_that_cannot_be_written(write, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the bundle"):
        write(path=tmp_path / "file" / "bundle")


@pytest.mark.parametrize("space", range(12))
def test_full_disk_leaves_nothing(write, tmp_path, monkeypatch, space):
    sync, left_over = os.fsync, iter(range(space))

    def full(handle):
        if next(left_over, None) is None:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    if space == 11:  # as many files: it fits
        write()
        assert left(tmp_path)[0] == "bundle"
        return
    with pytest.raises(InputError, match="No space left on device"):
        write()
    assert left(tmp_path) == []


def test_bundle_that_fails_its_own_verification_is_not_left(write, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hwprune.deploy.writing.verify",
        lambda place, latency: {"ok": False, "checks": [{"name": "golden", "ok": False, "detail": "far off"}]},
    )
    with pytest.raises(ParityError, match="golden: far off"):
        write()
    assert left(tmp_path) == []


# -- killed at every step ---------------------------------------------------------------------------------------

KILLED = """
    import os, signal, sys
    import torch
    from pathlib import Path
    from hwprune.deploy import export_onnx, write_bundle
    from hwprune.targets import load_target

    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    example, target = torch.randn(1, 3, 8, 8), load_target("local-onnxruntime")
    export_onnx(model, example, folder / "m.onnx")

    def write(path):
        write_bundle(path, engine=folder / "m.onnx", model=model, example=example, target=target)

    def armed(call, countdown):
        def step(*args, **kwargs):
            countdown[0] -= 1
            if countdown[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return step

    steps = 0
    while True:  # the child is killed before its first, second, third … step that touches the disk
        place = folder / f"killed-{steps}"
        place.mkdir()
        child = os.fork()
        if child == 0:
            countdown = [steps]
            for name in ("mkdir", "open", "fsync", "chmod", "replace", "rename"):
                setattr(os, name, armed(getattr(os, name), countdown))
            write(place / "bundle")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        steps += 1
    for number in range(steps):
        if not (folder / f"killed-{number}" / "bundle").exists():
            write(folder / f"killed-{number}" / "bundle")
    print(steps)
"""


def test_a_kill_at_any_step_leaves_no_half_bundle_and_nothing_in_the_way(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout.splitlines()[-1])
    assert steps >= 33  # eleven files of three steps each
    for number in range(steps):  # a bundle that the kill left was not written again: it must be whole
        assert [p.name for p in (tmp_path / f"killed-{number}").iterdir()] == ["bundle"]
        bundle = Bundle.load(tmp_path / f"killed-{number}" / "bundle")
        assert verify(bundle.path, latency=False)["ok"]
    assert json.loads((tmp_path / f"killed-{steps}" / "bundle" / "manifest.json").read_text())["schema_version"] == 2
