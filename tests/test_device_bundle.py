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


def test_what_it_is_is_told_without_a_runtime(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.manifest.update(
        preprocessing={"kind": "image", "color": "RGB", "class_names": ["cat", "d\x1b[2Jog"]},
        accuracy={"metric": "accuracy", "artifact": 0.75},
        created="2026-01-01T00:00:00+00:00",
    )
    bundle.save()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert main(["info", str(bundle.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {
        "ok     hashes: 10 files unchanged",
        "engine: model.onnx, 76 bytes, fp32",
        "runtime: onnxruntime, 1 threads, for target here",
        "input x: float32 [1, 3]",
        "output y: float32 [1, 3]",
        "preprocessing: kind image, color RGB",
        "classes: cat, d\\x1b[2Jog",
        "measured: 2 ms",
        "accuracy: metric accuracy, artifact 0.75",
        "created: 2026-01-01T00:00:00+00:00",
    } <= set(lines)
    assert main(["info", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["accuracy"]["artifact"] == 0.75


def test_bench_tells_how_good_the_number_is(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    took = {"p50_ms": 1.5, "low_ms": 1.4, "high_ms": 1.6, "p90_ms": 1.7, "clean": 70, "repeats": 80}
    quality = {
        "contention": {"clean_fraction": 0.875},
        "rounds": 7,
        "burst": 5,
        "threads": 1,
        "clock": "perf_counter_ns",
    }
    asked = {}

    def measure(calls: Any, **settings: Any) -> dict[str, Any]:
        asked.update(settings)
        return {"candidates": {"engine": took}, **quality}

    monkeypatch.setattr(device_runner, "measure", measure)
    assert main(["bench", str(bundle.path), "--rounds", "7"]) == 0
    assert asked == {"rounds": 7, "threads": 1, "cpu_time": True}
    assert capsys.readouterr().out.splitlines() == [
        "1.5 ms (95 %: 1.4 to 1.6), p90 1.7 ms",
        "70 of 80 samples undisturbed (88% of all), 7 rounds, 1 threads, clock perf_counter_ns",
        "recorded: 2 ms",
    ]
    bundle.manifest["device"]["cpu"] = "Cortex-A76"
    bundle.save()
    assert main(["bench", str(bundle.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["recorded_ms"], document["differing"], document["latency_ms"]) == (2.0, ["cpu"], took)


def test_bench_on_a_busy_device(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MeasurementRefused("too busy: 3%")

    monkeypatch.setattr(device_runner, "measure", refuse)
    assert main(["bench", str(bundle.path)]) == 1
    assert capsys.readouterr().out == "FAILED latency: too busy: 3%\n"


def test_every_verb_refuses_what_was_changed(bundle: BundleFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle.path / "golden.npz").write_bytes(b"")
    where = str(bundle.path)
    for arguments in (["info", where], ["bench", where], ["verify", where], ["infer", "x.npy", "--bundle", where]):
        assert main(arguments) == 1
        assert capsys.readouterr().out.startswith("FAILED hashes: golden.npz was changed")
        assert main([*arguments, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["checks"][0]["name"] == "hashes"


def test_arrays_go_in_by_name(bundle: BundleFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path.parent / "in.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3))
    output = tmp_path.parent / "out.npz"
    arguments = ["infer", str(tmp_path.parent / "in.npz"), "--bundle", str(bundle.path), "--output", str(output)]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == [{"name": "y", "shape": [2, 3]}]
    with np.load(output) as written:
        np.testing.assert_array_equal(written["output_0"], [[0, 1, 4], [9, 16, 25]])


def test_outputs_that_are_not_finite_are_no_class(
    bundle: BundleFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path.parent / "in.npy", np.array([[1e30, 1, 2], [1, 3, 2]], np.float32))
    arguments = ["infer", str(tmp_path.parent / "in.npy"), "--bundle", str(bundle.path)]
    assert main([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [one["class"] for one in results] == [None, 1]
    assert main(arguments) == 0
    assert "[0]: its outputs are not finite" in capsys.readouterr().out
