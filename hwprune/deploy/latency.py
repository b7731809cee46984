"""Latency of exported engines, measured on the target with the one clock."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwprune import device_runner
from hwprune.deploy.formats import null_engine, read_model
from hwprune.errors import MeasurementError
from hwprune.targets import Target
from hwprune.targets.connection import Visit, connect

OPENINGS = 3  # of each engine: where its memory happens to lie makes a percent or two


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time per call of one engine, over the calls that nothing disturbed; median over several openings of it.

    Attributes:
        p50_ms: median.
        p90_ms: 90th percentile.
        min_ms: least.
        iqr_ms: spread between the quartiles.
        cpu_p50_ms: median thread CPU time; None with more than one thread.
        repeats: samples taken.
        clean: samples that were undisturbed, and counted.
    """

    p50_ms: float
    p90_ms: float
    min_ms: float
    iqr_ms: float
    cpu_p50_ms: float | None
    repeats: int
    clean: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One engine on its target.

    Attributes:
        latency: what was measured.
        clock: by what; of a GPU's clock, whether transfers are in the time.
        contention: what else the device was doing, as the clock saw it.
    """

    latency: Latency
    clock: str
    contention: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PairMeasurement:
    """Two engines measured against each other in interleaved rounds.

    Attributes:
        baseline: the engine before.
        candidate: the engine after.
        ratio: median over rounds of candidate time over baseline time; below 1 is faster.
        ratio_low: lower end of its 95 % bootstrap interval over rounds.
        ratio_high: upper end.
        rounds: in which each of the three openings of each engine ran.
        clock: by what; of a GPU's clock, whether transfers are in the time.
        contention: what else the device was doing, as the clock saw it.
    """

    baseline: Latency
    candidate: Latency
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    clock: str
    contention: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FormsMeasurement:
    """One network in several precisions on one target.

    Attributes:
        latency: by precision.
        ratio: of each to the first one: median over rounds, and the 95 % interval of it; the first one has none.
    """

    latency: Mapping[str, Latency]
    ratio: Mapping[str, tuple[float, float, float]]


def measure_one(model: Path | bytes, target: Target, *, rounds: int = 10, burst: int = 5, seed: int = 0) -> Measurement:
    """Measure one engine.

    Args:
        model: an exported model, or its path.
        target: a device at hand.
        rounds: rounds of ``burst`` calls of each opening; the first call of a burst is not counted.
        burst: calls in a row.
        seed: of the random input.

    Raises:
        InputError: the target cannot be measured from here, or the model cannot be opened.
        MeasurementError: the device was too busy.
    """
    result = _measure({"engine": model}, target, rounds=rounds, burst=burst, seed=seed)
    return Measurement(latency=_latency(result, "engine"), clock=result["clock"], contention=result["contention"])


def measure_pair(
    baseline: Path | bytes, candidate: Path | bytes, target: Target, *, rounds: int = 10, burst: int = 5, seed: int = 0
) -> PairMeasurement:
    """Measure two engines in interleaved rounds, so that a drift of the device strikes both.

    Args:
        baseline: the exported model to compare with, or its path.
        candidate: the exported model in question, or its path.
        target: a device at hand.
        rounds: rounds in which each opening of each engine runs ``burst`` calls; the first of a burst is not counted.
        burst: calls in a row.
        seed: of the random input, the order within rounds, and the bootstrap.

    Raises:
        InputError: the target cannot be measured from here, or a model cannot be opened.
        MeasurementError: the device was too busy.
    """
    models = {"baseline": baseline, "candidate": candidate}
    result = _measure(models, target, rounds=rounds, burst=burst, seed=seed)
    with _refusal_named():
        ratio = device_runner.ratio(result, "candidate", "baseline", seed=seed)
    return PairMeasurement(
        baseline=_latency(result, "baseline"),
        candidate=_latency(result, "candidate"),
        ratio=ratio["median"],
        ratio_low=ratio["low"],
        ratio_high=ratio["high"],
        rounds=rounds,
        clock=result["clock"],
        contention=result["contention"],
    )


def measure_forms(forms: Mapping[str, bytes], target: Target, *, rounds: int = 15, seed: int = 0) -> FormsMeasurement:
    """Measure a network in several precisions, in interleaved rounds.

    Args:
        forms: precision → engine; the first one is what the others are compared with.
        target: a device at hand; its own precision does not matter, every engine has the one that is in it.
        rounds: as for :func:`measure_pair`.
        seed: likewise.

    Raises:
        InputError: the target cannot be measured from here, or an engine cannot be opened.
        MeasurementError: the device was too busy.
    """
    permissive = replace(target, precision="fp32")
    result = _measure(dict(forms), permissive, rounds=rounds, burst=5, seed=seed)
    first = next(iter(forms))
    with _refusal_named():
        ratios = {name: device_runner.ratio(result, name, first, seed=seed) for name in forms if name != first}
    return FormsMeasurement(
        latency={name: _latency(result, name) for name in forms},
        ratio={name: (one["median"], one["low"], one["high"]) for name, one in ratios.items()},
    )


def _measure(models: dict[str, Path | bytes], target: Target, *, rounds: int, burst: int, seed: int) -> dict[str, Any]:
    contents = {name: model if isinstance(model, bytes) else read_model(model) for name, model in models.items()}
    opened = {f"{name}, opening {i}": content for i in range(OPENINGS) for name, content in contents.items()}
    visit = Visit(
        id=" and ".join(models), models=opened, rounds=rounds, burst=burst, min_clean=0.3, max_seconds=30.0, seed=seed
    )
    idle = null_engine(target)
    with connect(target, null=idle, anchor=idle) as connection:
        (result,) = connection.run([visit])
    found = result["candidates"]
    openings = {name: [found[f"{name}, opening {i}"] for i in range(OPENINGS)] for name in models}
    return {**result, "candidates": {name: _pooled(same) for name, same in openings.items()}}


def _pooled(openings: list[dict[str, Any]]) -> dict[str, Any]:
    """One engine's statistics over its openings."""
    middle = {
        key: statistics.median(one[key] for one in openings)
        for key in ("p50_ms", "p90_ms", "iqr_ms", "cpu_p50_ms")
        if openings[0][key] is not None
    }
    return {
        "cpu_p50_ms": None,
        **middle,
        "min_ms": min(one["min_ms"] for one in openings),
        "repeats": sum(one["repeats"] for one in openings),
        "clean": sum(one["clean"] for one in openings),
        "rounds_ms": [time for one in openings for time in one["rounds_ms"]],
    }


@contextmanager
def _refusal_named() -> Iterator[None]:
    try:
        yield
    except device_runner.MeasurementRefused as error:
        raise MeasurementError(str(error), hint="stop what else runs on the device, then measure again") from error


def _latency(result: dict[str, Any], name: str) -> Latency:
    stats = result["candidates"][name]
    return Latency(**{field: stats[field] for field in Latency.__dataclass_fields__})
