import hashlib
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hwprune import device_bundle, device_facts, device_runner, device_verbs
from hwprune.deploy import Bundle, export_onnx, verify, write_bundle
from hwprune.deploy.bundle import sealed
from hwprune.engines import onnxruntime_engine
from hwprune.errors import BundleError
from hwprune.targets import load_target

FILES = ["model.onnx", "golden.npz", "run.py", "device_facts.py", "onnxruntime_engine.py", "manifest.json"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\n")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def link(path):
    shutil.move(path, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def test_whole_bundle_passes(bundle):
    report = verify(bundle.path, latency=False)
    assert report["ok"]
    assert [check["name"] for check in report["checks"]] == ["hashes", "golden"]


def test_latency_is_checked_on_request(bundle):
    report = verify(bundle.path, rounds=5)
    assert [check["name"] for check in report["checks"]] == ["hashes", "golden", "latency"]


def test_loaded_bundle_tells_what_it_is(bundle):
    again = Bundle.load(str(bundle.path))
    assert again == bundle
    assert (again.target.name, again.target.threads) == ("local-onnxruntime", 1)
    assert again.engine == (bundle.path / "model.onnx").read_bytes()


@pytest.fixture
def sealed_engine(monkeypatch):
    """Opening an engine, or even a golden array, is a failure of the test."""

    def opened(*_, **__):
        raise AssertionError("something of a bundle that was tampered with was opened")

    monkeypatch.setattr(device_runner, "open_engine", opened)
    monkeypatch.setattr(onnxruntime_engine.Engine, "__init__", opened)
    monkeypatch.setattr(np, "load", opened)


TAMPERINGS = [(name, tamper) for name in FILES for tamper in (flip, lengthen, cut_short, empty, link, Path.unlink)]


@pytest.mark.parametrize(("name", "tamper"), TAMPERINGS)
def test_tampering_with_any_file_is_caught_before_anything_is_opened(bundle, name, tamper, sealed_engine):
    tamper(bundle.path / name)
    if name == "manifest.json":
        with pytest.raises(BundleError, match=r"manifest\.json") as caught:
            verify(bundle.path)
        assert caught.value.hint
        return
    report = verify(bundle.path)
    assert not report["ok"]
    assert [check["name"] for check in report["checks"]] == ["hashes"]
    assert name in report["checks"][0]["detail"]


def edit(bundle, change):
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def forge(bundle, change):
    """As one who knows how manifests are written."""
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    change(manifest)
    (bundle.path / "manifest.json").write_bytes(sealed(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["latency"].update(predicted_ms=0.001),
        lambda m: m["golden"].update(relative_l2=10.0),
        lambda m: m["files"].pop("run.py"),
        lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}),
        lambda m: m.update(extra=1),
        lambda m: m.pop("manifest_sha256"),
    ],
)
def test_manifest_that_says_something_else_is_caught(bundle, change, sealed_engine):
    edit(bundle, change)
    for read in (Bundle.load, verify):
        with pytest.raises(BundleError, match="was changed after it was written"):
            read(bundle.path)


def test_engine_exchanged_together_with_its_hash_in_the_manifest_is_caught(bundle, sealed_engine):
    flip(bundle.path / "model.onnx")
    digest = hashlib.sha256((bundle.path / "model.onnx").read_bytes()).hexdigest()
    edit(bundle, lambda m: m["files"]["model.onnx"].update(sha256=digest))
    with pytest.raises(BundleError, match="was changed"):
        verify(bundle.path)


def test_loading_the_engine_checks_it(bundle):
    flip(bundle.path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx was changed"):
        _ = Bundle.load(bundle.path).engine
    (bundle.path / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        _ = bundle.engine


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfa", b"[" * 100_000, b"[]", b'{"schema_version": 2}'])
def test_not_a_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="was changed") as caught:
        Bundle.load(tmp_path)
    assert caught.value.hint


def test_a_bundle_of_another_version(tmp_path):
    (tmp_path / "manifest.json").write_bytes(sealed({"schema_version": 3}))
    with pytest.raises(BundleError, match="schema_version 3, 2 is read here"):
        Bundle.load(tmp_path)


def test_no_bundle(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=r"no bundle in .*manifest\.json is missing"):
            verify(path)


def test_golden_outputs_hold_an_engine_with_right_hashes(networks, images, tmp_path, bundle, monkeypatch):
    """A runtime that computes something else on this device is found out, whatever the hashes say."""
    run = onnxruntime_engine.Engine.run
    monkeypatch.setattr(
        onnxruntime_engine.Engine, "run", lambda self, feeds: [x * np.float32(1.001) for x in run(self, feeds)]
    )
    report = verify(bundle.path)
    assert not report["ok"]
    assert [check["ok"] for check in report["checks"]] == [True, False]


def test_prediction_is_completed_once(bundle):
    measured = {"p50_ms": 1.25, "p90_ms": 1.5}
    complete = bundle.complete(measured, {"cpu": "here"})
    assert Bundle.load(bundle.path) == complete
    assert complete.manifest["latency"]["measured_ms"] == measured
    assert complete.manifest["device"] == {"cpu": "here"}
    assert verify(bundle.path, latency=False)["ok"]
    with pytest.raises(BundleError, match="holds a measurement already"):
        complete.complete(measured, {})


# -- on a device that has nothing but Python, numpy and ONNX Runtime ------------------------------------------

RUNNER = """
    import runpy, sys

    class Nothing:
        '''Refuses what a device does not have, loudly.'''
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {forbidden!r}:
                raise SystemExit("imported " + name)

    sys.meta_path.insert(0, Nothing())
    sys.path.append({site!r})
    sys.argv = ["run.py", *{arguments!r}]
    runpy.run_path({script!r}, run_name="__main__")
"""


def on_device(tmp_path, bundle_path, *arguments, also_missing=()):
    """Run a copy of the bundle's run.py where only numpy and onnxruntime can be imported."""
    site, device = tmp_path / "site", tmp_path / "device"
    site.mkdir()
    packages = Path(onnxruntime.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "onnxruntime"):
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    shutil.copytree(bundle_path, device)
    forbidden = {"torch", "hwprune", "onnx", *also_missing}
    code = textwrap.dedent(RUNNER).format(
        forbidden=forbidden, site=str(site), arguments=arguments, script=str(device / "run.py")
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120, check=False)


def test_run_py_needs_only_numpy_and_onnxruntime(bundle, tmp_path):
    done = on_device(tmp_path, bundle.path, "--json", "--no-latency")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["ok"]
    assert [check["name"] for check in report["checks"]] == ["hashes", "golden"]


def test_run_py_runs_plainly(bundle, tmp_path):
    done = on_device(tmp_path, bundle.path, "--no-latency")
    assert done.returncode == 0
    assert "golden" in done.stdout


def test_run_py_finds_tampering_without_opening_anything(bundle, tmp_path):
    flip(bundle.path / "model.onnx")
    done = on_device(tmp_path, bundle.path, also_missing=["onnxruntime"])
    assert done.returncode == 1
    assert "model.onnx" in done.stdout


def test_run_py_is_the_one_clock(bundle):
    for name, module in (
        ("run", device_bundle),
        ("device_runner", device_runner),
        ("device_verbs", device_verbs),
        ("device_facts", device_facts),
        ("onnxruntime_engine", onnxruntime_engine),
    ):
        assert (bundle.path / f"{name}.py").read_bytes() == Path(module.__file__).read_bytes()


def test_run_py_imports_no_code_that_the_manifest_does_not_list(bundle, tmp_path):
    forge(bundle, lambda m: m["files"].pop("onnxruntime_engine.py"))
    done = on_device(tmp_path, bundle.path, "--no-latency", also_missing=["onnxruntime"])
    assert done.returncode == 1
    assert "onnxruntime_engine.py is not listed" in done.stdout


@pytest.mark.parametrize("name", ["onnxruntime_engine.py", "device_runner.py", "device_verbs.py"])
def test_run_py_says_when_one_of_its_files_is_not_there(bundle, tmp_path, name):
    forge(bundle, lambda m: m["files"].pop(name))
    (bundle.path / name).unlink()
    done = on_device(tmp_path, bundle.path, "--no-latency")
    assert done.returncode == 2
    assert f"{name} is missing" in done.stderr


def test_the_same_inputs_give_the_same_bytes(bundle, networks, images, tmp_path):
    """All that differs is when it was written."""
    engine = export_onnx(networks["Residual"], torch.zeros(2, 3, 16, 16), tmp_path / "again.onnx").path
    given = {"engine": engine, "model": networks["Residual"], "example": images}
    again = write_bundle(tmp_path / "again", target=load_target("local-onnxruntime"), **given)
    assert sorted(path.name for path in bundle.path.iterdir()) == sorted(path.name for path in again.path.iterdir())
    for name in bundle.manifest["files"]:
        assert (bundle.path / name).read_bytes() == (again.path / name).read_bytes(), name
    times = [one.manifest.pop("created") for one in (bundle, again)]
    assert all(time.endswith("+00:00") for time in times)
    assert sealed(bundle.manifest) == sealed(again.manifest)


def test_nothing_in_a_bundle_is_pickled_or_outside_it(bundle):
    with np.load(bundle.path / "golden.npz", allow_pickle=False) as golden:
        assert all(golden[key].dtype == np.float32 for key in golden.files)
    assert not any(tensor.external_data for tensor in onnx.load(bundle.path / "model.onnx").graph.initializer)
