"""``run.py``: checking and using a bundle on a device that has nothing else of hwprune."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune import device_runner
from hwprune.device_bundle import Malformed, main, verify_bundle
from hwprune.device_runner import BadInput, MeasurementRefused

from .bundle_folder import BundleFolder, X


@pytest.fixture
def bundle(tmp_path: Path) -> BundleFolder:
    return BundleFolder(tmp_path)


def measured(monkeypatch: pytest.MonkeyPatch, p50_ms: float) -> None:
    """Let every measurement find this latency, and still run the call."""

    def measure(calls: Any, **_: Any) -> dict[str, Any]:
        for call in calls.values():
            call()
        return {"candidates": {name: {"p50_ms": p50_ms} for name in calls}}

    monkeypatch.setattr(device_runner, "measure", measure)


def outcomes(report: dict[str, Any]) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in report["checks"]}


def test_a_good_bundle(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 2.49)
    report = verify_bundle(bundle.path)
    assert report["ok"] is True
    assert outcomes(report) == {"hashes": True, "golden": True, "latency": True}
    assert report["checks"][2]["detail"] == "2.49 ms measured, at most 2.5 ms"
    assert report["latency_ms"] == {"p50_ms": 2.49}
    json.dumps(report, allow_nan=False)


def test_without_latency(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(device_runner, "measure")
    report = verify_bundle(bundle.path, latency=False)
    assert report["ok"] is True
    assert report["latency_ms"] is None
    assert outcomes(report) == {"hashes": True, "golden": True}


@pytest.mark.parametrize(
    "output", [X * X * 1.001, X, np.full_like(X, np.nan), np.zeros_like(X), (X * X)[:, :2], (X * X)[0]]
)
def test_other_outputs_than_promised(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, output: Any) -> None:
    monkeypatch.delattr(device_runner, "measure")
    bundle.golden({"in": X, "out": output})
    report = verify_bundle(bundle.path)
    assert report["ok"] is False
    assert outcomes(report) == {"hashes": True, "golden": False}


def test_the_tolerance_is_relative_to_the_norm(bundle: BundleFolder) -> None:
    # |x²| is sqrt(1 + 16 + 81) = 9.899; an error of 0.001 in one element is 1.0102e-4 of it
    output = X.astype(np.float64) ** 2 + [[0.001, 0, 0]]
    bundle.golden({"in": X, "out": output})
    for limit, ok in ((1.02e-4, True), (1.00e-4, False)):
        bundle.manifest["golden"]["relative_l2"] = limit
        bundle.save()
        report = verify_bundle(bundle.path, latency=False)
        assert report["ok"] is ok
        assert "1.01e-04" in report["checks"][1]["detail"]


def test_too_slow(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 2.51)
    report = verify_bundle(bundle.path)
    assert report["ok"] is False
    assert outcomes(report) == {"hashes": True, "golden": True, "latency": False}
    assert report["latency_ms"] == {"p50_ms": 2.51}


def test_faster_is_no_fault(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 0.1)
    assert verify_bundle(bundle.path)["ok"] is True


def test_another_device_is_measured_but_not_compared(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 50.0)
    bundle.manifest["device"]["cpu"] = "Cortex-A76"
    bundle.save()
    report = verify_bundle(bundle.path)
    assert report["ok"] is True
    assert report["latency_ms"] == {"p50_ms": 50.0}
    assert report["checks"][2]["detail"] == "50 ms; not compared: another device (cpu)"


def test_a_bundle_that_was_only_predicted(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 50.0)
    bundle.manifest.update(latency={"measured_ms": None, "predicted_ms": 3.0, "tolerance": 0.25}, device=None)
    bundle.save()
    report = verify_bundle(bundle.path)
    assert report["ok"] is True
    assert "none recorded" in report["checks"][2]["detail"]


def test_a_busy_device_does_not_pass(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MeasurementRefused("too busy: 3%")

    monkeypatch.setattr(device_runner, "measure", refuse)
    report = verify_bundle(bundle.path)
    assert report["ok"] is False
    assert report["checks"][2] == {"name": "latency", "ok": False, "detail": "too busy: 3%"}
    assert report["latency_ms"] is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("engine", "file"), "other.onnx"),
        (("engine", "file"), "golden.npz"),
        (("engine", "runtime"), "abacus"),
        (("engine", "threads"), "many"),
        (("golden", "file"), "model.onnx"),
        (("golden", "inputs"), {}),
        (("golden", "outputs"), {}),
        (("golden", "outputs"), {"y": "absent"}),
        (("golden", "relative_l2"), None),
        (("latency", "tolerance"), "a little"),
        (("latency", "measured_ms"), {"p90_ms": 1.0}),
    ],
)
def test_manifests_that_do_not_fit(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, place: tuple[str, str], value: Any
) -> None:
    measured(monkeypatch, 1.0)
    bundle.manifest[place[0]][place[1]] = value
    bundle.save()
    with pytest.raises((BadInput, Malformed)):
        verify_bundle(bundle.path)


@pytest.mark.parametrize("part", ["files", "engine", "golden"])
def test_manifests_that_lack_a_part(bundle: BundleFolder, part: str) -> None:
    del bundle.manifest[part]
    bundle.save()
    with pytest.raises(Malformed, match=f"no entry '{part}'"):
        verify_bundle(bundle.path)


def test_golden_arrays_are_never_unpickled(bundle: BundleFolder, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    bundle.golden({"in": np.array([Bomb()], dtype=object), "out": X})
    with pytest.raises(BadInput, match="allow_pickle"):
        verify_bundle(bundle.path)
    assert not (tmp_path / "executed").exists()


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=r"no bundle in .*manifest\.json is missing"):
        verify_bundle(tmp_path / "absent")


def test_exit_statuses(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, 1.0)
    assert main([str(bundle.path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("ok     golden: relative L2 error")
    assert main([str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latency_ms"] == {"p50_ms": 1.0}
    (bundle.path / "run.py").write_text("")
    assert main([str(bundle.path)]) == 1
    assert capsys.readouterr().out.startswith("FAILED hashes: run.py was changed after it was written: 0 bytes")
    (bundle.path / "manifest.json").unlink()
    assert main([str(bundle.path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "\nhint: " in captured.err


def test_a_missing_runtime_is_bad_input(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([str(bundle.path)]) == 2
    assert "onnxruntime" in capsys.readouterr().err


def test_the_copy_in_a_bundle_runs_by_itself(bundle: BundleFolder) -> None:
    # -I: no PYTHON* variables, no user packages, and the bundle's folder is not on the path
    command = [sys.executable, "-I", str(bundle.path / "run.py"), "--no-latency", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    assert done.stderr == ""
    assert done.returncode == 0
    assert outcomes(json.loads(done.stdout)) == {"hashes": True, "golden": True}
