"""Measuring a latency table from whole networks: every pruning of it gives a sample of every layer at once."""

from __future__ import annotations

import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np

from hwprune import device_runner
from hwprune.latency.bench import PROBES, probe_visits, step_from
from hwprune.latency.conditions import Conditions, too_busy
from hwprune.latency.curve import FEWEST, Curve, fitted_curve
from hwprune.latency.design import designed_widths
from hwprune.latency.entry import Entry, Floats, HeldOut
from hwprune.latency.fitting import fit
from hwprune.latency.fusion import FusionRules, fused_chains, fused_into, observe
from hwprune.latency.key import costed_operands, key_of, sizes_of
from hwprune.latency.layer import Layer
from hwprune.latency.observation import NETWORK, Observation, Shares, anchor_speed, observed, shares
from hwprune.latency.prediction import predict
from hwprune.latency.sampling import group_step, rounded_up
from hwprune.latency.table import LatencyTable
from hwprune.latency.whole_network import estimated
from hwprune.targets import Target, runtime_for
from hwprune.targets.connection import Connection, Visit

BATCH = 16  # networks between two looks at how well the next ones are predicted
NETWORKS = (48, 112)  # least, and most while the error on unseen networks is above GOOD_ENOUGH
GOOD_ENOUGH = 0.01  # median relative error
SECONDS = 60.0  # after which nothing is visited again, and no networks beyond the least are begun
REVISITS, SLOW = 1, 1.05  # how often a network is visited again when its anchor was so much slower than the fastest
ROUNDS, BURST, MAX_SECONDS = 24, 3, 2.0
VISIT_S, FEWEST_ROUNDS, MOST_ROUNDS = 0.6, 12, 96  # what rounds are adapted to, once the anchor's speed is known
FOLDS = 5
TESTED_FROM = 32  # networks known before others are predicted, to see how well
PACKED_STEP = 8  # where the channel step is not known while the networks are chosen
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Subject:
    """A network that can be built at any widths.

    Attributes:
        layers: of the dense network, in execution order.
        channels: cuttable group → channels in the dense network.
        frozen: any other group → channels.
        positions: cuttable group → positions that one of its channels is; what is not named has 1.
        build: the exported network with these widths of the cuttable groups, in the runtime's format.
        covers: node of the exported graph → layer; empty where the runtime does not tell what kernels take.
        null: a model that does nothing, in that format.
        probes: output channels → a convolution (:func:`hwprune.latency.bench.probe_visits`), in that format.
    """

    layers: Sequence[Layer]
    channels: Widths
    frozen: Widths
    build: Callable[[Widths], bytes]
    covers: Mapping[str, str]
    null: bytes
    probes: Mapping[int, bytes]
    positions: Widths = field(default_factory=dict)

    @property
    def anchor(self) -> bytes:
        """The network that all others are measured against: about half as wide as the dense one."""
        steps = {name: group_step(16, self.positions.get(name, 1)) for name in self.channels}
        return self.build({n: min(count, rounded_up(-(-count // 2), steps[n])) for n, count in self.channels.items()})


def network_visits(
    subject: Subject,
    designed: Sequence[Widths],
    numbers: Sequence[int],
    *,
    seed: int,
    again: int = 0,
    rounds: int = ROUNDS,
) -> Iterator[Visit]:
    """One visit per network: it is timed as it is, and opened a second time with a clock on every kernel."""
    for number, widths in zip(numbers, designed, strict=True):
        yield Visit(
            id=f"network-{number}" + (f"-again-{again}" if again else ""),  # or the first reply would do on a device
            models={NETWORK: subject.build(widths)},
            instrumented=(NETWORK,) if subject.covers else (),
            rounds=rounds,
            burst=BURST,
            max_seconds=MAX_SECONDS,
            seed=seed,
        )


class NetworkProfiler:
    """Collects observations of a network's prunings, and makes a table of them.

    Args:
        subject: the network.
        target: where it is measured.
        seed: of widths, inputs and the order of measurements.
    """

    def __init__(self, subject: Subject, target: Target, *, seed: int = 0) -> None:
        self._subject, self._target, self._seed = subject, target, seed
        self._observations: list[Observation] = []
        self._tested: list[HeldOut] = []  # batches that were predicted before they were measured
        self._conditions = Conditions()
        self._step = 0
        self._begin: float | None = None  # of measuring live

    def live(
        self,
        connection: Connection,
        *,
        networks: tuple[int, int] = NETWORKS,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> LatencyTable:
        """Measure until networks that were not seen before are predicted well.

        Args:
            connection: to the device; its anchor is the subject's.
            networks: the least and the most to measure.
            progress: called with (networks done, most networks, what is next).

        Raises:
            MeasurementError: the device is too busy.
        """
        self._begin = time.monotonic()
        self._step = step_from(connection.run(probe_visits(self._subject.probes, seed=self._seed)))
        least, most = networks if self._subject.channels else (1, 1)
        while (done := len(self._observations)) < most and not (done >= least and self._good_enough()):
            if done >= TESTED_FROM + BATCH and self._late():
                break
            designed = self._designed(min(BATCH, most - done), self._step, part=done)
            batch = []
            for one in self._observed(connection, designed, list(range(done, done + len(designed)))):
                batch.append(one)
                if progress:
                    progress(done + len(batch), most, "networks")
            self._accept(self._revisited(connection, designed, batch))
            self._conditions.check(connection.fingerprint())
        return self.table(connection.fingerprint())

    def _rounds(self) -> int:
        """As many as a visit has time for: the faster a network is, the more it takes to see it undisturbed."""
        if self._begin is None or not self._observations:
            return ROUNDS
        once_s = 3 * BURST * anchor_speed(self._observations) / 1e3  # the anchor, and the network twice
        return int(np.clip(VISIT_S / once_s, FEWEST_ROUNDS, MOST_ROUNDS))

    def _late(self) -> bool:
        return self._begin is not None and time.monotonic() - self._begin > SECONDS

    def _observed(
        self, connection: Connection, designed: Sequence[Widths], numbers: Sequence[int], again: int = 0
    ) -> Iterator[Observation]:
        rounds = self._rounds()
        visits = network_visits(self._subject, designed, numbers, seed=self._seed, again=again, rounds=rounds)
        for widths, reply in zip(designed, connection.run(visits), strict=True):
            yield self._read(reply, widths)

    def _revisited(
        self, connection: Connection, designed: Sequence[Widths], batch: list[Observation]
    ) -> list[Observation]:
        """Visit again where the anchor ran slowly: something outside our sight had a part of the processor."""
        for attempt in range(1, REVISITS + 1):
            if self._late():
                break
            fastest = min(one.anchor_ms for one in (*self._observations, *batch))
            slow = [index for index, one in enumerate(batch) if one.anchor_ms > SLOW * fastest]
            numbers = [len(self._observations) + index for index in slow]
            again = self._observed(connection, [designed[index] for index in slow], numbers, attempt)
            for index, one in zip(slow, again, strict=True):
                batch[index] = min(batch[index], one, key=lambda seen: seen.anchor_ms)
        return batch

    def visits(self, networks: int) -> Iterator[Visit]:
        """All visits to a device that cannot be asked while they are chosen."""
        yield from probe_visits(self._subject.probes, seed=self._seed)
        for first in range(0, networks, BATCH):
            designed = self._designed(min(BATCH, networks - first), PACKED_STEP, part=first)
            numbers = range(first, first + len(designed))
            yield from network_visits(self._subject, designed, numbers, seed=self._seed)

    def packed(self, connection: Connection, networks: int) -> LatencyTable:
        """Make a table from the replies to :meth:`visits`.

        Raises:
            InputError: the replies are to something else.
            MeasurementError: the device was too busy.
        """
        replies = connection.run(self.visits(networks))
        self._step = step_from(itertools.islice(replies, PROBES))
        for first in range(0, networks, BATCH):
            designed = self._designed(min(BATCH, networks - first), PACKED_STEP, part=first)
            self._accept([self._read(next(replies), widths) for widths in designed])
        self._conditions.check(connection.fingerprint())
        return self.table(connection.fingerprint())

    def _designed(self, count: int, step: int, *, part: int) -> list[dict[str, int]]:
        designed = designed_widths(self._subject.channels, step, count, self._seed + part, self._subject.positions)
        if part == 0:
            designed[0] = dict(self._subject.channels)  # the dense network is always among them
        return designed

    def _read(self, reply: Mapping[str, Any], widths: Widths) -> Observation:
        try:
            one = observed(reply, widths, self._subject.covers, self._subject.layers)
        except device_runner.MeasurementRefused as error:
            raise too_busy(reply, error) from error
        self._conditions.add(reply)
        return one

    def _accept(self, batch: Sequence[Observation]) -> None:
        """Take in observations; where enough is known by now, see first how well they are predicted."""
        known = self.table({}) if len(self._observations) >= TESTED_FROM else None
        self._observations += batch
        if known is not None:
            anchor_ms = known.protocol["anchor_ms"]  # the speed that it is predicted for
            predicted = [predict(self._subject.layers, known, self._all(one.widths)).latency_ms for one in batch]
            measured = [one.over_anchor * anchor_ms for one in batch]
            self._tested.append(HeldOut(tuple(map(_brief, predicted)), tuple(map(_brief, measured))))

    def _good_enough(self) -> bool:
        return bool(self._tested) and float(np.median(self._tested[-1].errors)) <= GOOD_ENOUGH

    def _all(self, widths: Widths) -> dict[str, int]:
        return {**self._subject.frozen, **widths}

    def table(self, device: dict[str, Any]) -> LatencyTable:
        """The table that the observations so far make.

        Args:
            device: its fingerprint.
        """
        return replace(self._additive(device), curve=self._curve())

    def _curve(self) -> Curve:
        """From sums of layers to networks, seen on networks that were held out."""
        if len(self._observations) < FEWEST:
            return Curve()
        sums, anchor_ms = np.zeros(len(self._observations)), anchor_speed(self._observations)
        totals = np.array([one.over_anchor * anchor_ms for one in self._observations])
        for fold in range(FOLDS):
            others = copy.copy(self)
            others._observations = [one for index, one in enumerate(self._observations) if index % FOLDS != fold]
            known = others._additive({})
            totals[fold::FOLDS] -= known.overhead_ms
            for index, one in list(enumerate(self._observations))[fold::FOLDS]:
                found = predict(self._subject.layers, known, self._all(one.widths))
                sums[index] = found.latency_ms - known.overhead_ms
        return fitted_curve(sums, totals)

    def _additive(self, device: dict[str, Any]) -> LatencyTable:
        layers, found = self._subject.layers, shares(self._observations)
        with_kernel = found.layers
        if not with_kernel:  # the runtime tells nothing about its kernels
            parts = estimated(layers, [self._all(one.widths) for one in self._observations], found.total_ms)
            found = replace(found, layers=tuple(layer.name for layer in layers), latency_ms=parts)
        rules = FusionRules(runtime_for(self._target), observe(layers, with_kernel) if with_kernel else {})
        predicted = tuple(one for batch in self._tested for one in batch.predicted_ms)
        measured = tuple(one for batch in self._tested for one in batch.measured_ms)
        return LatencyTable(
            target=self._target,
            device=device,
            protocol=self._protocol(found, kernels=bool(with_kernel)),
            channel_step=self._step,
            scale=1.0,
            scale_source={"method": "layers were measured in whole networks"},
            entries=self._entries(found, rules),
            overhead_ms=found.overhead_ms,
            fusion=rules.observed,
            held_out=HeldOut(predicted, measured) if measured else None,
        )

    def _entries(self, found: Shares, rules: FusionRules) -> tuple[Entry, ...]:
        fused, chains = fused_into(self._subject.layers, rules), fused_chains(self._subject.layers, rules)
        part = dict(zip(found.layers, found.latency_ms.T, strict=True))
        took: dict[str, Floats] = defaultdict(lambda: np.zeros(len(found.total_ms)))
        for name, latency_ms in part.items():
            took[fused.get(name, name)] = took[fused.get(name, name)] + latency_ms
        kinds: dict[str, list[Layer]] = {}
        for layer in self._subject.layers:
            if layer.name not in fused:
                kinds.setdefault(key_of(layer, chains.get(layer.name, ())).identity, []).append(layer)
        return tuple(self._entry(same, chains.get(same[0].name, ()), took) for same in kinds.values())

    def _entry(self, same: Sequence[Layer], fused: tuple[str, ...], took: Mapping[str, Floats]) -> Entry:
        """Fit what layers that share a key took, over their channel counts."""
        everywhere = [self._all(one.widths) for one in self._observations]
        sizes = np.array([self._edges(layer, widths) for layer in same for widths in everywhere], dtype=np.int64)
        source = np.tile(np.arange(len(everywhere)), len(same))
        latency_ms = np.concatenate([took[layer.name] for layer in same])
        ends = [
            (min(low for low, _ in axis), max(high for _, high in axis))
            for axis in zip(*(self._ends(layer) for layer in same), strict=True)
        ]
        found = fit(sizes.reshape(len(source), -1), latency_ms, source, ends)
        return Entry(
            key=key_of(same[0], fused),
            sizes=found.knots,
            latency_ms=found.values,
            iqr_ms=found.values * found.spread,
            repeats=found.support,
            how="in context",
        )

    def _edges(self, layer: Layer, widths: Widths) -> tuple[int, ...]:
        """Channel counts along the axes of its key, as the step edges that they cost as much as."""
        return tuple(_edge(size, self._step) for size in sizes_of(layer, widths))

    def _ends(self, layer: Layer) -> list[tuple[int, int]]:
        """The least and the greatest count of each axis that any pruning can have."""
        ends = []
        for operand, size in zip((one for _, one in costed_operands(layer)), sizes_of(layer), strict=True):
            smallest = {**self._subject.frozen, **dict.fromkeys(self._subject.channels, 1)}
            least = operand.channels(operand.positions.size(smallest))
            low = size if operand.channel_dim is None else min(least, size)
            high = _edge(size, self._step)
            ends.append((min(rounded_up(low, self._step), high), high))  # less than a step costs a step
        return ends

    def _protocol(self, found: Shares, *, kernels: bool) -> dict[str, Any]:
        anchors = [one.anchor_ms for one in self._observations]
        seen = {
            "kernel_bias_ms": float(f"{found.kernel_bias_ms:.4g}"),
            "kernel_scale": round(found.kernel_scale, 4),
            "unattributed": round(max(0.0, found.unattributed), 4),
        }
        return {
            "rounds": self._rounds(),
            "burst": BURST,
            "points": 0,
            "networks": len(self._observations),
            "seed": self._seed,
            "null_run_ms": float(f"{found.overhead_ms:.6g}"),
            "anchor_ms": _brief(anchor_speed(self._observations)),
            "anchor_drift": round(max(anchors) / min(anchors) - 1, 4),
            **self._conditions.protocol(),
            **(seen if kernels else {}),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "hwprune": metadata.version("hwprune"),
        }


def _edge(size: int, step: int) -> int:
    return size if size < step else rounded_up(size, step)


def _brief(value: float) -> float:
    return float(f"{value:.6g}")
