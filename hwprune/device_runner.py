"""The one clock: run an exported engine and time it honestly.

It needs Python 3.8, numpy and the runtime (both imported late), ``device_facts.py`` and the runtime's engine file, and
nothing else: hwprune measures with them, and copies them verbatim into every bundle and kit, so that the latency table,
the report and the device share one measurement.
"""

from __future__ import annotations

import importlib
import math
import random
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Engine = Any  # hwprune.engines.Engine, which is not on a device
SAMPLE_NS = 100_000  # a timed sample lasts at least this long: clock resolution and overhead stay below 1 %
CLEAN_RATIO = 1.05  # a single-threaded sample is clean when wall time <= this times its thread CPU time
WAKING_NS = 50_000  # that a thread may wait for a processor when a call wakes it, though nobody else wants one
MIN_ROUNDS = 5
ENGINES = {  # runtime: (its engine file, "<name>_engine.py"; the device that it runs on)
    "onnxruntime": ("onnxruntime", "cpu"),
    "onnxruntime-cuda": ("onnxruntime", "cuda"),
    "onnxruntime-tensorrt": ("onnxruntime", "tensorrt"),
    "openvino": ("openvino", "cpu"),
    "torch": ("torch", "cpu"),
    "torch-cuda": ("torch", "cuda"),
    "ncnn": ("ncnn", "cpu"),
    "tensorrt": ("tensorrt", "cuda"),
}

ONNX = ("onnxruntime", "openvino", "tensorrt")  # engine files that open ONNX models
SOURCES: dict[str, bytes] = {}  # our files on a device, where they were checked; else what is beside this one


class MeasurementRefused(RuntimeError):
    """The device is too busy for a number worth reporting; the message holds what was seen."""


class BadInput(ValueError):
    """A model or bundle is malformed, or made for something that is not here."""


class NotInstrumented(ValueError):
    """Times of single kernels were asked of an engine that was opened without them, or whose runtime cannot tell."""


def engine_module(runtime: str) -> Any:
    """The module of a runtime's engine: the package's, or on a device the one beside this file.

    Raises:
        BadInput: there is no such runtime, or its engine file is not here.
    """
    if runtime not in ENGINES:
        raise BadInput(f"unknown runtime {runtime!r}; there are {', '.join(ENGINES)}")
    return sibling(f"{ENGINES[runtime][0]}_engine", "hwprune.engines")


def sibling(name: str, package: str = "hwprune") -> Any:
    """One of our modules: the package's, or on a device the file beside this one, never a compiled copy of it."""
    if __name__.startswith("hwprune."):
        return importlib.import_module(f"{package}.{name}")
    if name not in sys.modules:
        source = SOURCES.get(f"{name}.py") if SOURCES else _beside(f"{name}.py")
        if source is None:
            raise BadInput(f"{name}.py is missing")
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return sys.modules[name]


def _beside(file: str) -> bytes | None:
    path = Path(__file__).resolve().parent / file
    return path.read_bytes() if path.is_file() else None


def open_engine(model: bytes | str, *, runtime: str = "onnxruntime", **settings: Any) -> Engine:
    """Open a model, bytes or path, in the format that its runtime reads.

    Args:
        model: the model.
        runtime: one of ``ENGINES``.
        settings: ``threads`` (1 if not given), ``precision`` (fp32), ``instrumented`` (False: kernels are not timed).

    Raises:
        BadInput: there is no such runtime here, or it cannot open the model, or bytes refer to files beside them.
        NotInstrumented: kernels are to be timed, and it cannot tell what they take.
    """
    module, (name, device) = engine_module(runtime), ENGINES[runtime]
    if name in ONNX and isinstance(model, bytes) and b"location" in model and not settings.get("trusted_plan"):
        sibling("onnx_graph", "hwprune.engines").check_whole(model)  # every reference to a file has that word in it
    return module.Engine(model, device=device, **settings)


def example_feeds(engine: Engine, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Made-up inputs by name: normal noise for floats, zeros for other types; dynamic dimensions are 1."""
    np = importlib.import_module("numpy")
    rng, feeds = np.random.default_rng(seed), {}
    for port in engine.inputs:
        shape = [1 if size is None else size for size in port["shape"]]
        values = rng.standard_normal(shape) if port["dtype"].startswith("float") else np.zeros(shape)
        feeds[port["name"]] = values.astype(port["dtype"])
    return feeds


def _told() -> tuple[int, int | None]:
    """Involuntary context switches of this process so far, and nanoseconds that its threads waited for a processor."""
    facts = sibling("device_facts")
    return facts.switches(), facts.waited_ns()


class _Candidate:
    """A call under measurement. Its samples are (round, wall ns, cpu ns, clean), times per call."""

    def __init__(self, call: Callable[[], Any], *, cpu_time: bool, warmup: int, threads: int) -> None:
        self.call, self.switches, self.uses_cpu_time, self.threads = call, 0, cpu_time, threads
        self.clock = getattr(call, "clock", "perf_counter_ns")  # a call with a clock of its own returns nanoseconds
        self.samples: list[tuple[int, float, float, bool]] = []
        call_ns = max(1, min(self._sample(1)[0] for _ in range(max(1, warmup))))
        self.calls_per_sample = math.ceil(SAMPLE_NS / call_ns)
        self.sample_ns = self.calls_per_sample * call_ns

    def _sample(self, count: int) -> tuple[float, float]:
        """Wall and thread CPU nanoseconds of ``count`` calls."""
        call, cpu_start, start = self.call, time.thread_time_ns(), time.perf_counter_ns()
        told = [call() for _ in range(count)]
        wall, cpu = time.perf_counter_ns() - start, time.thread_time_ns() - cpu_start
        return (wall if self.clock == "perf_counter_ns" else sum(told)), cpu

    def run_burst(self, index: int, burst: int) -> None:
        """One call to warm the caches, then ``burst - 1`` timed samples."""
        (switched, waited), begin, count = _told(), time.perf_counter_ns(), self.calls_per_sample
        self.call()
        seen = [self._sample(count) for _ in range(burst - 1)]
        took, (switched_then, waited_then) = time.perf_counter_ns() - begin, _told()
        self.switches += switched_then - switched
        undisturbed = switched_then == switched
        if waited is not None and waited_then is not None:
            waking = WAKING_NS * self.threads * (1 + (burst - 1) * count)
            undisturbed = waited_then - waited <= (CLEAN_RATIO - 1) * took + waking
        for wall, cpu in seen:
            clean = wall <= CLEAN_RATIO * cpu if self.uses_cpu_time else undisturbed
            self.samples.append((index, wall / count, cpu / count, clean))

    def summary(self, rounds: int) -> dict[str, Any]:
        """Statistics over the clean samples, in milliseconds per call."""
        np = importlib.import_module("numpy")
        index, wall, cpu = np.array([sample[:3] for sample in self.samples if sample[3]]).T / [[1], [1e6], [1e6]]
        low, p50, high, p90 = np.percentile(wall, (25, 50, 75, 90)).tolist()
        least, most = _interval(index, wall)
        per_round = (wall[index == number] for number in range(rounds))
        return {
            "p50_ms": p50,
            "low_ms": least,
            "high_ms": most,
            "p90_ms": p90,
            "min_ms": float(wall.min()),
            "iqr_ms": high - low,
            "cpu_p50_ms": float(np.median(cpu)) if self.uses_cpu_time else None,
            "repeats": len(self.samples),
            "clean": len(wall),
            "calls_per_sample": self.calls_per_sample,
            "rounds_ms": [float(np.median(times)) if len(times) else None for times in per_round],
        }


def _interval(index: NDArray[Any], wall: NDArray[Any], samples: int = 1000) -> list[float]:
    """95 % bootstrap interval of the median: rounds are drawn again, each with all its samples."""
    np = importlib.import_module("numpy")
    order, (numbers, place) = np.argsort(wall), np.unique(index, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=samples)
    below = np.cumsum(drawn[:, place[order]], axis=1)  # samples up to each, smallest first, in every draw
    half = below[:, -1:] / 2
    middle = (wall[order][(below >= half).argmax(axis=1)] + wall[order][(below > half).argmax(axis=1)]) / 2
    found: list[float] = np.percentile(middle, (2.5, 97.5)).tolist()
    return found


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    threads: int = 1,
    cpu_time: bool | None = None,
    rounds: int = 20,
    burst: int = 5,
    warmup: int = 3,
    seed: int = 0,
    attempts: int = 6,
    min_clean: float = 0.3,
    max_seconds: float = 30.0,
) -> dict[str, Any]:
    """Time candidates against each other in interleaved rounds; keep what nobody disturbed, or refuse.

    Every round runs every candidate in shuffled order, ``burst`` samples in a row, the first one untimed; fast calls
    are timed several to a sample. A sample is clean when its wall time is at most 1.05 times its thread CPU time
    (with ``cpu_time``); else when the process's threads, ready to run, waited for a processor during at most 5 % of the
    burst (and 50 µs for being woken, per thread and call), or, where the system does not tell, when nothing preempted
    the process during it. Statistics are over clean samples; ``low_ms`` and ``high_ms`` are the median's 95 % bootstrap
    interval over rounds.

    Args:
        calls: what to time, by name; one with an attribute ``clock`` returns its own time in nanoseconds.
        threads: threads that the calls use.
        cpu_time: whether a call does all its work on the calling thread, whose CPU time is then evidence of contention;
            if not given, with one thread.
        rounds: rounds per attempt, 5 at least.
        burst: samples of one candidate in a row, 2 at least.
        warmup: untimed calls of each candidate before the first round.
        seed: of the shuffle.
        attempts: how often to start again, after a longer pause and with longer rests, when too little was clean.
        min_clean: the least clean fraction of its samples that each candidate must reach.
        max_seconds: of slow calls ``burst``, then ``rounds``, are lowered as far as they go to end an attempt by then.

    Returns:
        ``candidates`` (name → statistics; ``rounds_ms`` holds a median per round, None where nothing was clean),
        ``rounds``, ``burst``, ``threads``, ``contention``, ``clock``.

    Raises:
        MeasurementRefused: too few clean samples in every attempt.
    """
    rng, limit_ns = random.Random(seed), max_seconds * 1e9
    cpu_time = threads == 1 if cpu_time is None else cpu_time and threads == 1
    for attempt in range(attempts):
        time.sleep(min(attempt * attempt, 10))
        found = {
            name: _Candidate(call, cpu_time=cpu_time, warmup=warmup, threads=threads) for name, call in calls.items()
        }
        order = list(found.values())
        fitting = limit_ns / MIN_ROUNDS / sum(candidate.sample_ns for candidate in order)
        size, done = max(2, min(burst, int(fitting))), 0
        begin, load = time.perf_counter_ns(), sibling("device_facts").Load()
        while done < MIN_ROUNDS or (done < rounds and time.perf_counter_ns() - begin < limit_ns):
            rng.shuffle(order)
            for candidate in order:
                start = time.perf_counter_ns()
                candidate.run_burst(done, size)
                time.sleep(attempt * (time.perf_counter_ns() - start) / 1e9)  # who asks for little is seldom preempted
            done += 1
        clean = [sample[3] for one in order for sample in one.samples]
        switches = sum(one.switches for one in order)
        contention = {"clean_fraction": sum(clean) / len(clean), **load(), "involuntary_switches": switches}
        least, worst = min((sum(s[3] for s in one.samples) / len(one.samples), name) for name, one in found.items())
        if least and least >= min_clean:
            settings = {"rounds": done, "burst": size, "threads": threads, "clock": order[0].clock}
            return {"candidates": {k: v.summary(done) for k, v in found.items()}, "contention": contention, **settings}
    raise MeasurementRefused(
        f"the device is too busy: {least:.0%} of the samples of {worst!r} were clean, {min_clean:.0%} are needed, "
        f"in the last of {attempts} attempts: " + ", ".join(f"{key} {value}" for key, value in contention.items())
    )


def ratio(result: dict[str, Any], name: str, anchor: str, *, samples: int = 1000, seed: int = 0) -> dict[str, float]:
    """How much slower ``name`` is than ``anchor``: median over rounds of the ratio of their medians in that round.

    ``low`` and ``high`` are its 95 % bootstrap interval over rounds, for the samples of one round are correlated.

    Raises:
        MeasurementRefused: fewer than 5 rounds in which both had a clean sample.
    """
    np = importlib.import_module("numpy")
    times, base = (np.array(result["candidates"][key]["rounds_ms"], dtype=float) for key in (name, anchor))
    ratios = (times / base)[np.isfinite(times / base)]  # None, a round without a clean sample, became NaN
    if len(ratios) < MIN_ROUNDS:
        raise MeasurementRefused(f"{name!r} and {anchor!r} were both undisturbed in only {len(ratios)} rounds of 5")
    picks = np.random.default_rng(seed).integers(len(ratios), size=(samples, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), (2.5, 97.5)).tolist()
    return {"median": float(np.median(ratios)), "low": low, "high": high}


def fingerprint(runtime: str = "onnxruntime") -> dict[str, Any]:
    """What identifies this device and explains its speed; None where the system does not tell."""
    return {
        **sibling("device_facts").identity(gpu=ENGINES[runtime][1] != "cpu"),
        "numpy": importlib.import_module("numpy").__version__,
        "runtime": runtime,
        "runtime_version": engine_module(runtime).version(),
    }


def same_device(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of the fingerprint fields that differ and matter for latency; empty: the same device."""
    fields = ("cpu", "isa", "machine", "gpu", "power_mode", "runtime")
    differing = [field for field in fields if a.get(field) != b.get(field)]
    minor = [str(device.get("runtime_version")).split(".")[:2] for device in (a, b)]
    return differing if minor[0] == minor[1] else [*differing, "runtime_version"]
