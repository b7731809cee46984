"""Timing many small models on a target, so that numbers taken minutes apart can be compared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwprune import device_runner
from hwprune.latency.conditions import Conditions, too_busy
from hwprune.latency.isolate import isolated_models
from hwprune.latency.layer import Layer, Operand
from hwprune.latency.observation import calmest
from hwprune.targets import Target, runtime_for
from hwprune.targets.connection import ANCHOR, NULL, Connection, Visit

EDGE, STEPS = 64, (32, 16, 8, 4, 2)  # a count that is a multiple of every step, and the steps that are tried
PROBED = (EDGE, *(EDGE - step + 1 for step in STEPS))  # output channels that are timed
PROBES = 3  # visits that look for the step
BATCH_BYTES = 256 * 1024 * 1024  # of models open at the same time
LEAST_MS = 1e-4


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
    """A device, and the conditions under which it was measured so far.

    Models are timed in batches, in interleaved rounds together with two that are always the same: an empty one, whose
    time is subtracted, and an anchor convolution. The speed of a machine drifts; every batch is corrected by how the
    anchor fared in it, compared with the first batch.

    Args:
        target: the device and its conditions.
        connection: to it; its empty model and anchor are :func:`null_model` and :func:`probe_model`.
        seed: of random inputs and of the order of measurements.
    """

    def __init__(self, target: Target, connection: Connection, *, seed: int = 0) -> None:
        self.target, self.seed = target, seed
        self.runtime = runtime_for(target)
        self.connection = connection
        self._device = connection.fingerprint()
        self._null_ms: list[float] = []
        self._anchor_ms: list[float] = []
        self._conditions = Conditions()

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
            found = self._measured({str(index): model for index, model in enumerate(batch.values())}, what)
            steady = self._anchor_ms[0] / self._anchor_ms[-1]
            for index, name in enumerate(batch):
                seen = found[str(index)]
                latency_ms = max(LEAST_MS, steady * (seen["p50_ms"] - self._null_ms[-1]))
                timings[name] = Timing(latency_ms, steady * seen["iqr_ms"], seen["clean"])
        return timings

    def _measured(self, models: Mapping[str, bytes], what: str) -> dict[str, dict[str, Any]]:
        visit = Visit(id=f"{len(self._null_ms)}: {what}", models=models, seed=self.seed)
        (reply,) = self.connection.run([visit])
        found: dict[str, dict[str, Any]] = reply["candidates"]
        self._null_ms.append(found[NULL]["p50_ms"])
        self._anchor_ms.append(max(LEAST_MS, found[ANCHOR]["p50_ms"] - found[NULL]["p50_ms"]))
        self._conditions.add(reply)
        self._conditions.check(self._device)
        return found

    def protocol(self) -> dict[str, Any]:
        """How everything so far was measured, for the table."""
        return {
            "rounds": Visit.rounds,
            "burst": Visit.burst,
            "seed": self.seed,
            "null_run_ms": float(f"{min(self._null_ms):.6g}"),
            "anchor_drift": round(max(self._anchor_ms) / min(self._anchor_ms) - 1, 4),
            **self._conditions.protocol(),
        }


def probe(target: Target) -> Layer:
    """A 3×3 convolution that takes about a tenth of a millisecond per sample on a fast core."""
    operand = Operand((target.batch, 64, 14, 14), 1)
    ones = [1, 1]
    attributes = {"kernel": [3, 3], "stride": ones, "padding": ones, "dilation": ones, "conv_groups": 1}
    return Layer(name="probe", op="conv", inputs=(operand,), output=operand, attributes=attributes)


def probe_model(target: Target) -> bytes:
    """The probe as a model, to be an anchor."""
    return next(isolated_models(probe(target), [(64, 64)]))[1]


def probe_models(target: Target) -> dict[int, bytes]:
    """The probe with several numbers of output channels: what must be timed to find the channel block."""
    points = [(EDGE, out) for out in PROBED]
    return {point[1]: model for (point, _), model in isolated_models(probe(target), points)}


def probe_visits(models: Mapping[int, bytes], *, seed: int) -> list[Visit]:
    """Visits that find the channel block; :func:`step_from` reads the replies.

    Args:
        models: output channels → the probe, in the runtime's format (:func:`probe_models` makes it in ONNX).
        seed: of inputs and of the order of measurements.
    """
    named = {str(out): model for out, model in models.items()}
    return [Visit(id=f"channel-step-{index}", models=named, seed=seed) for index in range(PROBES)]


def step_from(replies: Iterable[Mapping[str, Any]]) -> int:
    """The channel block of the target's convolutions.

    Time over output channels is a staircase on hardware that works in blocks. A step ``s`` is accepted when the count
    just above the edge below 64 costs nearly what 64 costs: the drop is less than a quarter of the one that a cost
    proportional to the count would show. The largest accepted step wins.

    Args:
        replies: to :func:`probe_visits`.

    Raises:
        MeasurementError: the device was too busy.
    """
    found = [_above_null(reply) for reply in replies]
    # The least of several: whatever disturbs a measurement makes it longer.
    least = {out: min(times[str(out)] for times in found) for out in PROBED}
    for step in STEPS:
        drop = least[EDGE] - least[EDGE - step + 1]
        if drop < least[EDGE] * (step - 1) / EDGE / 4:  # never where the probe took no longer than nothing
            return step
    return 1


def _above_null(reply: Mapping[str, Any]) -> dict[str, float]:
    try:
        times = {name: calmest(seen) for name, seen in reply["candidates"].items()}
    except device_runner.MeasurementRefused as error:
        raise too_busy(reply, error) from error
    return {name: time_ms - times[NULL] for name, time_ms in times.items()}


def _in_batches(models: Iterable[tuple[Hashable, bytes]]) -> Iterator[dict[Hashable, bytes]]:
    batch: dict[Hashable, bytes] = {}
    for name, model in models:
        if batch and sum(map(len, batch.values())) + len(model) > BATCH_BYTES:
            yield batch
            batch = {}
        batch[name] = model
    if batch:
        yield batch
