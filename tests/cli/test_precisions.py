"""Engines in lower precisions from the command line, on a made-up clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwprune import device_runner
from hwprune.deploy import forms

from .workshop import COMPRESS, MODEL

EXPORT = f"export {MODEL} --weights weights.pt --data images.npz --output out"


@pytest.fixture
def int8_is(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The time of an int8 engine, as part of that of the float32 one, which is 1 ms."""

    def set_to(part: float) -> None:
        def measure(calls: dict[str, Any], **settings: Any) -> dict[str, Any]:
            def ms(name: str) -> float:
                return part if name.startswith("int8") else 1.0

            stats = {
                name: {
                    **{field: ms(name) for field in ("p50_ms", "p90_ms", "min_ms", "cpu_p50_ms")},
                    "iqr_ms": 0.0,
                    "repeats": 80,
                    "clean": 80,
                    "rounds_ms": [ms(name)] * 10,
                }
                for name in calls
            }
            return {"candidates": stats, "clock": "perf_counter_ns", "contention": {}}

        monkeypatch.setattr(device_runner, "measure", measure)

    return set_to


def manifest(folder: str = "out") -> Any:
    return json.loads(Path(folder, "manifest.json").read_text())


def test_int8_is_written_where_it_is_faster(hwprune: Any, workshop: Path, int8_is: Any) -> None:
    int8_is(0.5)
    answer = hwprune(f"{EXPORT} --precision auto --calibration-samples 16 --max-degradation 0.5")
    assert answer.status == 0, answer.err
    assert "out: int8, 0.5 ms" in answer.out
    assert "fp16 not written: no faster than fp32" in answer.out
    assert "95 % interval" in answer.out
    assert manifest()["target"]["precision"] == "int8"
    (fact,) = (one for one in manifest()["precision"]["forms"] if one["precision"] == "int8")
    assert fact["calibration"]["samples"] == 16
    assert hwprune("verify out --no-latency").status == 0


def test_int8_that_is_slower_is_not_written_and_says_so(hwprune: Any, workshop: Path, int8_is: Any) -> None:
    int8_is(1.5)
    answer = hwprune(f"{EXPORT} --precision int8 --max-degradation 0.5 --json")
    assert answer.status == 1
    document = json.loads(answer.out)
    assert document["bundle"] is None
    assert "1.5 of its latency" in document["precisions"][1]["not_delivered"]
    assert not Path("out").exists()
    assert hwprune(f"{EXPORT} --precision int8 --max-degradation 0.5 --force").status == 0
    assert manifest()["latency"]["measured_ms"]["p50_ms"] == 1.5


def test_gates_decide_the_exit_status(
    hwprune: Any, workshop: Path, int8_is: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8_is(0.5)
    accuracy = forms.Judge.degradation
    monkeypatch.setattr(
        forms.Judge,
        "degradation",
        lambda self, engine: forms.replace(accuracy(self, engine), source=0.9, artifact=0.88, lost=0.02),
    )
    assert hwprune(f"{EXPORT} --max-degradation 0.019").status == 1
    assert not Path("out").exists()
    assert hwprune(f"{EXPORT} --percent-max-degradation 2").status == 1
    answer = hwprune(f"{EXPORT} --max-degradation 0.019 --force")
    assert (answer.status, Path("out").exists()) == (1, True)
    assert "lost +0.0200" in answer.out
    assert hwprune(f"{EXPORT.replace('--output out', '--output second')} --percent-max-degradation 2.3").status == 0


def test_compress_delivers_int8(hwprune: Any, workshop: Path) -> None:
    line = f"{COMPRESS} --macs 0.5x --precision int8 --calibration-samples 12 --max-degradation"
    answer = hwprune(f"{line} 1 --json")
    assert answer.status == 0, answer.err
    result, bundle = json.loads(answer.out), manifest("run/bundle")
    assert result["gates"] == {"max_degradation": 1.0, "percent_max_degradation": None, "met": True}
    assert bundle["precision"]["chosen"] == bundle["engine"]["precision"] == "int8"
    assert bundle["precision"]["calibration"] == {"samples": 12, "source": "training set", "seed": 0}
    assert bundle["accuracy"]["degradation"]["lost"] == pytest.approx(
        result["baseline_accuracy"] - result["accuracy"], abs=1e-6
    )
    assert b"QuantizeLinear" in Path("run/model.onnx").read_bytes()
    assert b"QuantizeLinear" in Path("run/baseline.onnx").read_bytes()
    assert hwprune("verify run/bundle --no-latency").status == 0
    assert "accuracy may fall by 1: met" in " ".join(hwprune(f"{line} 1 --resume").out.split())


def test_a_compressed_network_that_is_worse_than_allowed_is_written_with_status_1(
    hwprune: Any, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy = forms.Judge.degradation
    monkeypatch.setattr(
        forms.Judge, "degradation", lambda self, engine: forms.replace(accuracy(self, engine), lost=0.2)
    )
    answer = hwprune(f"{COMPRESS} --macs 0.5x --max-degradation 0.1")
    assert answer.status == 1
    assert "accuracy may fall by 0.1: MISSED, it fell by 0.2000" in " ".join(answer.out.split())
    assert Path("run/bundle/model.onnx").exists()
