"""Timing many small models on a target, so that numbers taken minutes apart can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwprune import device_runner
from hwprune.errors import MeasurementError
from hwprune.latency.isolate import isolated_models, null_model
from hwprune.latency.layer import Layer, Operand
from hwprune.targets import Runtime, Target, runtime_for

ROUNDS, BURST, ATTEMPTS = 9, 4, 6
MAX_SECONDS = 8.0  # per batch of models
BATCH_BYTES = 256 * 1024 * 1024  # of models open at the same time
LEAST_MS = 1e-4
NULL, ANCHOR = "null", "anchor"


@dataclass(frozen=True)
class Timing:
    """One model's time per call, without what an empty call costs.

    Attributes:
        latency_ms: median, at least 0.1 µs.
        iqr_ms: spread between the quartiles.
        repeats: undisturbed samples behind the median.
    """

    latency_ms: float
    iqr_ms: float
    repeats: int

    def above(self, other: Timing, times: int) -> Timing:
        """What each of the ``times`` parts takes that this has more than ``other``."""
        return Timing(
            max(LEAST_MS, (self.latency_ms - other.latency_ms) / times),
            math.hypot(self.iqr_ms, other.iqr_ms) / times,
            min(self.repeats, other.repeats),
        )


class Bench:
    """A target, and the conditions under which it was measured so far.

    Models are timed in batches, in interleaved rounds together with two that are always the same: an empty one, whose
    time is subtracted, and an anchor convolution. The speed of a machine drifts; every batch is corrected by how the
    anchor fared in it, compared with the first batch.

    Args:
        target: a device at hand.
        runtime: the target's if not given.
        measure: the clock, with the signature of ``device_runner.measure``.
        seed: of random inputs and of the order of measurements.
    """

    def __init__(
        self,
        target: Target,
        *,
        runtime: Runtime | None = None,
        measure: Callable[..., dict[str, Any]] = device_runner.measure,
        seed: int = 0,
    ) -> None:
        self.target, self.seed = target, seed
        self.runtime = runtime or runtime_for(target)
        self._measure = measure
        _, anchor = next(isolated_models(probe(target), [(64, 64)]))
        self._fixed = {NULL: self._opened(null_model()), ANCHOR: self._opened(anchor)}
        self._null_ms: list[float] = []
        self._anchor_ms: list[float] = []
        self._clean: list[float] = []

    def time(self, models: Iterable[tuple[Hashable, bytes]], what: str) -> dict[Hashable, Timing]:
        """Time models against each other.

        Args:
            models: names and serialised models; they are taken from it as there is room for them.
            what: what they are, for messages.

        Raises:
            MeasurementError: the device is too busy.
            ModelError: the runtime cannot open one of them.
        """
        timings: dict[Hashable, Timing] = {}
        for batch in _in_batches(models):
            calls = {str(index): self._opened(model) for index, model in enumerate(batch.values())}
            found = self._measured({**self._fixed, **calls}, what)
            steady = self._anchor_ms[0] / self._anchor_ms[-1]
            for index, name in enumerate(batch):
                seen = found[str(index)]
                latency_ms = max(LEAST_MS, steady * (seen["p50_ms"] - self._null_ms[-1]))
                timings[name] = Timing(latency_ms, steady * seen["iqr_ms"], seen["clean"])
        return timings

    def _measured(self, calls: Mapping[str, Callable[[], object]], what: str) -> dict[str, dict[str, Any]]:
        try:
            result = self._measure(
                calls,
                threads=self.target.threads,
                rounds=ROUNDS,
                burst=BURST,
                attempts=ATTEMPTS,
                seed=self.seed,
                max_seconds=MAX_SECONDS,
            )
        except device_runner.MeasurementRefused as error:
            raise MeasurementError(
                f"measuring {what}: {error}", hint="stop what else is running on the device, then try again"
            ) from error
        found: dict[str, dict[str, Any]] = result["candidates"]
        self._null_ms.append(found[NULL]["p50_ms"])
        self._anchor_ms.append(found[ANCHOR]["p50_ms"] - found[NULL]["p50_ms"])
        self._clean.append(result["contention"]["clean_fraction"])
        return found

    def _opened(self, model: bytes) -> Callable[[], None]:
        engine = self.runtime.open(model, self.target)
        return engine.bind(device_runner.example_feeds(engine, seed=self.seed))

    def protocol(self) -> dict[str, Any]:
        """How everything so far was measured, for the table."""
        return {
            "clock": "perf_counter_ns",
            "rounds": ROUNDS,
            "burst": BURST,
            "seed": self.seed,
            "null_run_ms": float(f"{min(self._null_ms):.6g}"),
            "anchor_drift": round(max(self._anchor_ms) / min(self._anchor_ms) - 1, 4),
            "clean_fraction": round(sum(self._clean) / len(self._clean), 4),
        }


def probe(target: Target) -> Layer:
    """A 3×3 convolution that takes about a tenth of a millisecond per sample on a fast core."""
    operand = Operand((target.batch, 64, 14, 14), 1)
    ones = [1, 1]
    attributes = {"kernel": [3, 3], "stride": ones, "padding": ones, "dilation": ones, "conv_groups": 1}
    return Layer(name="probe", op="conv", inputs=(operand,), output=operand, attributes=attributes)


def channel_step(bench: Bench) -> int:
    """The channel block of the target's convolutions.

    Time over output channels is a staircase on hardware that works in blocks. A step ``s`` is accepted when the count
    just above the edge below 64 costs nearly what 64 costs: the drop is less than a quarter of the one that a cost
    proportional to the count would show. The largest accepted step wins.

    Raises:
        MeasurementError: the device is too busy.
    """
    edge, steps = 64, (32, 16, 8, 4, 2)
    layer = probe(bench.target)

    points = [(64, edge), *((64, edge - step + 1) for step in steps)]
    # The least of several: whatever disturbs a measurement makes it longer.
    found = [bench.time(isolated_models(layer, points), "the channel step") for _ in range(3)]
    least = {point[1]: min(timings[point, 1].latency_ms for timings in found) for point in points}
    for step in steps:
        drop = 1 - least[edge - step + 1] / least[edge]
        if drop < (step - 1) / edge / 4:
            return step
    return 1


def _in_batches(models: Iterable[tuple[Hashable, bytes]]) -> Iterator[dict[Hashable, bytes]]:
    batch: dict[Hashable, bytes] = {}
    for name, model in models:
        if batch and sum(map(len, batch.values())) + len(model) > BATCH_BYTES:
            yield batch
            batch = {}
        batch[name] = model
    if batch:
        yield batch
