"""Measures what it is asked, on the device: several models open at once, timed against each other, kernel by kernel.

Stands as ``worker.py`` beside ``device_runner.py``; needs Python 3.8, numpy and the runtime. ``python worker.py
FOLDER`` makes the visits of ``FOLDER/job.json`` and appends a line of JSON for each to ``FOLDER/results.jsonl``, after
one about the device; it goes on where an earlier run ended. It opens and imports nothing before the hashes of all files
are as the job says, and nothing that the job does not list. A job has ``schema_version`` (1), ``files`` (``{"sha256",
"bytes"}`` by name), ``runtime`` and ``visits`` (requests, see :func:`run_visit`), all of that runtime.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NULL, ANCHOR, INSTRUMENTED = "null", "anchor", "+kernels"
_BYTES = 1 << 20


def _runner() -> Any:
    return importlib.import_module("hwprune.device_runner" if __package__ else "device_runner")


class Kept:
    """Engines that stay open from one visit to the next.

    Where an engine's memory happens to lie makes some per cent, which must not change for what all visits are measured
    against.
    """

    def __init__(self) -> None:
        self._engines: dict[str, Any] = {}

    def engine(self, name: str, open_engine: Callable[[], Any]) -> Any:
        """The engine of that name, opened when it is first asked for."""
        if name not in self._engines:
            self._engines[name] = open_engine()
        return self._engines[name]

    def close(self) -> None:
        """Close all of them."""
        while self._engines:
            self._engines.popitem()[1].close()


def run_visit(request: Mapping[str, Any], models: Mapping[str, bytes | str], kept: Kept) -> dict[str, Any]:
    """Make one visit.

    Args:
        request: ``id``, ``runtime``, ``threads``, ``precision``, ``seed``, ``models`` (file by name),
            ``instrumented`` (names), ``anchor`` and ``null`` (files), ``rounds``, ``burst``, ``attempts``,
            ``max_seconds``, ``min_clean``.
        models: contents, or path, by file.
        kept: holds the empty model and the anchor, which are opened once for all visits with these two files and
            settings.

    Returns:
        ``id``, ``candidates``, ``kernels``, ``clock`` and ``contention``; or ``id`` and ``error``, of which ``kind`` is
        ``refused`` (too busy), ``bad_input`` (a model or request that it cannot serve), ``missing`` (something is not
        installed) or ``crashed`` (the runtime failed), and ``message`` says what happened.
    """
    runner = _runner()
    try:
        return _visit(runner, request, models, kept)
    except runner.MeasurementRefused as error:
        kind, message = "refused", str(error)
    except (runner.BadInput, runner.NotInstrumented) as error:
        kind, message = "bad_input", str(error)
    except ImportError as error:
        kind, message = "missing", str(error)
    except Exception as error:  # whatever a runtime raises
        kind, message = "crashed", f"{type(error).__name__}: {error}"
    return {"id": request["id"], "error": {"kind": kind, "message": message}}


def _visit(runner: Any, request: Mapping[str, Any], models: Mapping[str, bytes | str], kept: Kept) -> dict[str, Any]:
    settings = {key: request[key] for key in ("runtime", "threads")}

    def opened(file: str, precision: str, *, instrumented: bool = False) -> Any:
        return runner.open_engine(models[file], precision=precision, instrumented=instrumented, **settings)

    # fp32: the same for all targets
    fixed = {name: kept.engine(name, functools.partial(opened, request[name], "fp32")) for name in (NULL, ANCHOR)}
    engines, precision = dict(fixed), request["precision"]
    try:
        for name, file in request["models"].items():
            engines[name] = opened(file, precision)
        for name in request["instrumented"]:
            engines[f"{name}{INSTRUMENTED}"] = opened(request["models"][name], precision, instrumented=True)
        calls = {name: one.bind(runner.example_feeds(one, request["seed"])) for name, one in engines.items()}
        limits = {key: request[key] for key in ("threads", "seed", "rounds", "burst", "attempts", "max_seconds")}
        cpu_time = all(engine.cpu_time for engine in engines.values())
        found = runner.measure(calls, cpu_time=cpu_time, min_clean=request["min_clean"], **limits)
        kernels = {name: _summary(engines[f"{name}{INSTRUMENTED}"].kernels()) for name in request["instrumented"]}
    finally:
        for name in engines.keys() - fixed.keys():
            engines[name].close()
    told = {key: found[key] for key in ("candidates", "clock", "contention")}
    return {"id": request["id"], **told, "kernels": kernels}


def _summary(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Statistics over the least disturbed fifth of the runs (five at least): those whose kernels took least together.

    Runtimes tell whole microseconds, which is much of a small kernel: ``p50_ms`` is the mean of the middle half.
    """
    np = importlib.import_module("numpy")
    if not kernels:
        return []
    times = np.array([kernel["runs_ms"] for kernel in kernels])  # (kernels, runs)
    total = times.sum(axis=0)
    count = min(len(total), max(5, len(total) // 5))
    calm = np.sort(times[:, np.argsort(total)[:count]], axis=1)
    middle = calm[:, count // 4 : count - count // 4].mean(axis=1)
    low, high = np.percentile(calm, (25, 75), axis=1)
    return [
        {"covers": one["covers"], "op": one["op"], "p50_ms": p50, "iqr_ms": spread, "repeats": count}
        for one, p50, spread in zip(kernels, middle.tolist(), (high - low).tolist())
    ]


def _record(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    if path.is_symlink() or not path.is_file():
        return "", -1
    with path.open("rb") as file:
        while block := file.read(_BYTES):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _finished(results: Path) -> tuple[bool, set[str]]:
    """Whether the device is known, and ids of the visits made; a line that was cut off is removed."""
    whole = results.read_bytes().rpartition(b"\n")[0] if results.exists() else b""
    if whole:
        os.truncate(results, len(whole) + 1)
    elif results.exists():
        os.truncate(results, 0)
    return bool(whole), {json.loads(line)["id"] for line in whole.splitlines()[1:]}


def _append(results: Path, document: Mapping[str, Any]) -> None:
    line = json.dumps(document, allow_nan=False)
    with results.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(line, flush=True)


def _unfit(folder: Path, job: Mapping[str, Any]) -> str | None:
    """Why a job cannot be begun."""
    files = job["files"]
    if job["schema_version"] != 1:
        return f"the job has schema_version {job['schema_version']}; this worker reads 1"
    odd = [name for name in files if name in ("", ".", "..") or set(name) & set("/\\:\0")]
    if odd:
        return f"no plain file names: {', '.join(odd)}"
    changed = [name for name, record in files.items() if _record(folder / name) != (record["sha256"], record["bytes"])]
    if changed:
        return f"missing or changed: {', '.join(changed)}"
    strange = sorted(path.name for path in folder.glob("*.py") if path.name not in files)
    return f"not in the job: {', '.join(strange)}" if strange else None


def _work(folder: Path) -> str | None:
    """Make the visits of a job; says why it cannot be begun."""
    job = json.loads((folder / "job.json").read_bytes())
    problem = _unfit(folder, job)
    if problem:
        return problem
    if not __package__:  # from its source: a compiled copy would not have been checked
        path = folder / "device_runner.py"
        module = sys.modules["device_runner"] = types.ModuleType("device_runner")
        module.__file__ = str(path)
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    runner, runtime = _runner(), job["runtime"]
    head = {"fingerprint": runner.fingerprint(runtime), "schema_version": 1}
    missing: str | None = runner.engine_module(runtime).available(runner.ENGINES[runtime][1])
    if missing:
        return missing
    results = folder / "results.jsonl"
    known, done = _finished(results)
    if not known:
        _append(results, head)
    kept = Kept()
    for request in job["visits"]:
        if request["id"] not in done:
            _append(results, run_visit(request, {file: str(folder / file) for file in job["files"]}, kept))
    kept.close()
    return None


def main(argv: list[str]) -> int:
    """Make the visits of a folder; returns the exit status, 2 for a job that cannot be begun."""
    if len(argv) != 1:
        print("usage: python worker.py FOLDER", file=sys.stderr)
        return 2
    try:
        problem = _work(Path(argv[0]).resolve())
    except (ImportError, OSError, KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
