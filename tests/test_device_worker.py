"""The worker: visits on a device that has nothing of hwprune but the files beside it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwprune import device_runner, device_worker
from hwprune.device_worker import Kept, run_visit
from hwprune.targets import device_files, known_targets, runtime_for

from .engines import networks

MODEL, OTHER = networks.residual().serialised(), networks.squeezing().serialised()


def null_model() -> bytes:
    net = networks.Network(1, 4)
    net.add("Relu", "x")
    return net.serialised()


def request(**changes: Any) -> dict[str, Any]:
    return {
        **{"id": "first", "runtime": "onnxruntime", "threads": 1, "precision": "fp32", "seed": 3},
        **{"models": {"a": "a.onnx", "b": "b.onnx"}, "instrumented": ["b"], "anchor": "b.onnx", "null": "null.onnx"},
        **{"rounds": 5, "burst": 3, "attempts": 5, "max_seconds": 5.0, "min_clean": 0.01},
        **changes,
    }


CONTENTS = {"a.onnx": MODEL, "b.onnx": OTHER, "null.onnx": null_model()}


class Job:
    """A folder as a connection prepares it."""

    def __init__(self, folder: Path, runtime: str = "onnxruntime", visits: list[dict[str, Any]] | None = None) -> None:
        self.folder = folder
        self.document: dict[str, Any] = {
            "schema_version": 1,
            "runtime": runtime,
            "visits": [request()] if visits is None else visits,
            "files": {},
        }
        for name, content in {**device_files(runtime, worker=True), **CONTENTS}.items():
            self.add(name, content)
        self.save()

    def add(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        self.document["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def save(self) -> None:
        (self.folder / "job.json").write_text(json.dumps(self.document))

    def run(self) -> subprocess.CompletedProcess[str]:
        # -I: no PYTHON* variables, no user packages, and the folder is not on the path
        command = [sys.executable, "-I", str(self.folder / "worker.py"), str(self.folder)]
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 240, "cwd": "/", "check": False}
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **settings)

    @property
    def results(self) -> list[Any]:
        return [json.loads(line) for line in (self.folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def candidates(reply: dict[str, Any]) -> set[str]:
    if "error" in reply:
        assert reply["error"]["kind"] == "refused", reply
        pytest.skip(reply["error"]["message"])
    return set(reply["candidates"])


def test_a_job_on_a_device(job: Job) -> None:
    job.document["visits"].append(request(id="second", instrumented=[], models={"a": "a.onnx"}))
    job.save()
    done = job.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (job.folder / "results.jsonl").read_text()
    head, first, second = job.results
    assert head["schema_version"] == 1
    assert device_runner.same_device(head["fingerprint"], device_runner.fingerprint()) == []
    assert candidates(first) == {"null", "anchor", "a", "b", "b+kernels"}
    assert candidates(second) == {"null", "anchor", "a"}
    assert (first["id"], second["id"]) == ("first", "second")
    assert second["kernels"] == {}
    (kernels,) = first["kernels"].values()
    assert {name for kernel in kernels for name in kernel["covers"]} == {f"n{number}" for number in range(15)}
    assert all(kernel["repeats"] >= 5 and kernel["p50_ms"] >= 0 and kernel["iqr_ms"] >= 0 for kernel in kernels)
    assert 0 < first["contention"]["clean_fraction"] <= 1
    assert not list(job.folder.rglob("*.pyc"))


@pytest.mark.parametrize("runtime", ["openvino", "torch", "ncnn"])
def test_other_runtimes_on_a_device(tmp_path: Path, runtime: str) -> None:
    reason = runtime_for(known_targets()[f"local-{runtime}"]).unavailable()
    if reason:
        pytest.skip(reason)
    kernels = runtime_for(known_targets()[f"local-{runtime}"]).kernels
    job = Job(tmp_path, runtime, [request(runtime=runtime, instrumented=["b"] if kernels else [])])
    for name, content in CONTENTS.items():
        job.add(name, in_format(content, runtime))
    job.save()
    done = job.run()
    assert (done.returncode, done.stderr) == (0, "")
    head, reply = job.results
    assert head["fingerprint"]["runtime"] == runtime
    assert candidates(reply) == {"null", "anchor", "a", "b"} | ({"b+kernels"} if kernels else set())
    assert set(reply["kernels"]) == ({"b"} if kernels else set())


def in_format(content: bytes, runtime: str) -> bytes:
    if runtime == "ncnn":
        from hwprune.targets.ncnn import converted

        return converted(content)
    if runtime == "torch":
        from .engines.test_torch_archive import EXAMPLE, Net, saved

        return saved(Net(), EXAMPLE)
    return content


def test_no_visits_but_who_it_is(tmp_path: Path) -> None:
    job = Job(tmp_path, visits=[])
    assert job.run().returncode == 0
    (head,) = job.results
    assert head["fingerprint"]["runtime"] == "onnxruntime"


def test_it_goes_on_where_it_was_cut(job: Job) -> None:
    job.document["visits"].append(request(id="second", models={"a": "absent"}, instrumented=[]))
    job.save()
    head, first = '{"fingerprint": {}, "schema_version": 1}\n', '{"id": "first", "made": "before"}\n'
    (job.folder / "results.jsonl").write_text(head + first + '{"id": "second", "candid')
    assert job.run().returncode == 0
    assert job.results[1] == {"id": "first", "made": "before"}
    assert [reply.get("id") for reply in job.results] == [None, "first", "second"]
    done = job.run()
    assert (done.returncode, done.stdout) == (0, "")


def test_a_runtime_that_the_device_lacks(tmp_path: Path) -> None:
    lacking = [name for name in device_runner.ENGINES if runtime_for(known_targets()[f"local-{name}"]).unavailable()]
    if not lacking:
        pytest.skip("this machine has every runtime")
    done = Job(tmp_path, lacking[0]).run()
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "pip install" in done.stderr or "No module named" in done.stderr
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("cut", ["", '{"fingerp'])
def test_it_begins_again_when_even_the_first_line_was_cut(tmp_path: Path, cut: str) -> None:
    job = Job(tmp_path, visits=[])
    (job.folder / "results.jsonl").write_text(cut)
    assert job.run().returncode == 0
    assert set(job.results[0]) == {"fingerprint", "schema_version"}


@pytest.mark.parametrize(
    "name", ["device_runner.py", "worker.py", "onnxruntime_engine.py", "device_facts.py", "a.onnx"]
)
@pytest.mark.parametrize("how", ["changed", "gone", "link"])
def test_nothing_is_opened_or_imported_when_a_file_is_not_as_it_was_sent(job: Job, name: str, how: str) -> None:
    path = job.folder / name
    content = path.read_bytes()
    path.unlink()
    if how == "changed":
        trap = f"\nopen({str(job.folder / 'ran')!r}, 'w')\n" if name != "worker.py" else "\n"
        path.write_bytes(content + trap.encode())
    elif how == "link":
        (job.folder / "elsewhere").write_bytes(content)
        path.symlink_to(job.folder / "elsewhere")
    if name == "worker.py":  # another copy is run
        shutil.copy(Path(device_worker.__file__), job.folder.parent / "worker.py")
        command = [sys.executable, "-I", str(job.folder.parent / "worker.py"), str(job.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    else:
        done = job.run()
    assert done.returncode == 2
    assert done.stderr == f"error: missing or changed: {name}\n"
    assert not (job.folder / "ran").exists()
    assert not (job.folder / "results.jsonl").exists()


@pytest.mark.parametrize("name", ["numpy.py", "json.py", "spare.py"])
def test_code_that_the_job_does_not_list(job: Job, name: str) -> None:
    (job.folder / name).write_text(f"open({str(job.folder / 'ran')!r}, 'w')\n")
    done = job.run()
    assert (done.returncode, done.stderr) == (2, f"error: not in the job: {name}\n")
    assert not (job.folder / "ran").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "a:b", "a\0"])
def test_names_that_lead_out(job: Job, name: str) -> None:
    job.document["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    job.save()
    done = job.run()
    assert done.returncode == 2
    assert done.stderr.startswith("error: no plain file names")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 2, "files": {}}', '{"schema_version": 1}'])
def test_jobs_that_are_none(job: Job, text: str) -> None:
    (job.folder / "job.json").write_text(text)
    done = job.run()
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_worker.main([]) == 2
    assert "usage: python worker.py FOLDER" in capsys.readouterr().err


# -- what can go wrong with a visit -----------------------------------------------------------------------------------


def kind_of(reply: dict[str, Any]) -> str:
    assert set(reply) == {"id", "error"}
    assert reply["id"] == "first"
    assert reply["error"]["message"]
    return str(reply["error"]["kind"])


def test_a_model_that_cannot_be_opened() -> None:
    reply = run_visit(request(), {**CONTENTS, "a.onnx": b"junk"}, Kept())
    assert kind_of(reply) == "bad_input"
    assert "onnxruntime cannot open the model" in reply["error"]["message"]


@pytest.mark.parametrize("runtime", ["abacus", "ncnn"])
def test_kernels_that_nobody_can_time(runtime: str) -> None:
    if runtime == "ncnn" and runtime_for(known_targets()["local-ncnn"]).unavailable():
        pytest.skip("ncnn is not installed")
    contents = {name: in_format(content, runtime) for name, content in CONTENTS.items()}
    assert kind_of(run_visit(request(runtime=runtime), contents, Kept())) == "bad_input"


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert kind_of(run_visit(request(), CONTENTS, Kept())) == "missing"


def test_a_busy_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise device_runner.MeasurementRefused("3% of the samples were clean")

    monkeypatch.setattr(device_runner, "measure", refuse)
    reply = run_visit(request(), CONTENTS, Kept())
    assert kind_of(reply) == "refused"
    assert reply["error"]["message"] == "3% of the samples were clean"


def test_a_runtime_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    engine = device_runner.engine_module("onnxruntime").Engine
    monkeypatch.setattr(engine, "bind", lambda *_: 1 / 0)
    monkeypatch.setattr(engine, "close", lambda self: closed.append(id(self)))
    kept = Kept()
    reply = run_visit(request(), CONTENTS, kept)
    assert kind_of(reply) == "crashed"
    assert "ZeroDivisionError" in reply["error"]["message"]
    assert len(set(closed)) == 3
    kept.close()
    assert len(set(closed)) == 5


def test_what_all_visits_are_measured_against_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    open_engine = device_runner.open_engine
    monkeypatch.setattr(
        device_runner, "open_engine", lambda model, **s: opened.append(model) or open_engine(model, **s)
    )
    kept = Kept()
    for _ in range(3):
        assert "error" not in run_visit(request(), CONTENTS, kept)
    assert len(opened) == 2 + 3 * 3
    kept.close()
    kept.close()


def test_what_the_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def measure(calls: Any, **settings: Any) -> dict[str, Any]:
        asked.update(settings)
        for call in calls.values():
            call()
        return {
            "candidates": {name: {} for name in calls},
            "clock": "perf_counter_ns",
            "contention": {"clean_fraction": 1.0},
        }

    monkeypatch.setattr(device_runner, "measure", measure)
    reply = run_visit(
        request(threads=2, rounds=7, burst=6, attempts=2, max_seconds=1.5, min_clean=0.4), CONTENTS, Kept()
    )
    limits = {"rounds": 7, "burst": 6, "attempts": 2, "max_seconds": 1.5, "min_clean": 0.4, "seed": 3, "threads": 2}
    assert asked == {**limits, "cpu_time": True}
    assert set(reply) == {"id", "candidates", "kernels", "clock", "contention"}


def told(*runs: list[float]) -> list[dict[str, Any]]:
    found = device_worker._summary([{"covers": ["a"], "op": "A", "runs_ms": list(each)} for each in runs])
    assert all((kernel["covers"], kernel["op"]) == (["a"], "A") for kernel in found)
    return found


def test_kernel_statistics_are_over_the_calmest_runs() -> None:
    first, second = [9.0, 1.0, 2.0, 1.0, 9.0, 2.0, 8.0, 1.5], [9.0, 3.0, 4.0, 3.5, 1.0, 3.0, 8.0, 4.0]
    found = told(first, second)  # sums: 18, 4, 6, 4.5, 10, 5, 16, 5.5; the least five are counted
    assert [kernel["repeats"] for kernel in found] == [5, 5]
    assert found[0]["p50_ms"] == pytest.approx((1.0 + 1.5 + 2.0) / 3)  # of 1, 1, 1.5, 2, 2
    assert found[1]["p50_ms"] == pytest.approx((3.0 + 3.5 + 4.0) / 3)  # of 3, 3, 3.5, 4, 4
    assert (found[0]["iqr_ms"], found[1]["iqr_ms"]) == (1.0, 1.0)
    assert told([2.0, 1.0])[0]["repeats"] == 2
    assert told() == []


def test_of_many_runs_a_fifth_counts() -> None:
    (found,) = told([float(number) for number in range(100)])
    assert (found["repeats"], found["p50_ms"], found["iqr_ms"]) == (20, 9.5, 9.5)


def test_whole_microseconds_average_out() -> None:
    """A kernel of 2.3 µs, told as 2 or 3, beside one of 2.7."""
    runs = [0.002, 0.002, 0.003, 0.002, 0.003, 0.002, 0.002, 0.003, 0.002, 0.002] * 20
    first, second = told(runs, [0.005 - ms for ms in runs])
    assert 0.002 < first["p50_ms"] < 0.0025 < second["p50_ms"] < 0.003
