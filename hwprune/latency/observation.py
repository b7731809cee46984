"""What one visit to a device tells about the layers of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from hwprune import device_runner
from hwprune.latency.entry import Floats
from hwprune.latency.key import WEIGHT_OPS
from hwprune.latency.layer import Layer

NETWORK = "network"
UNKNOWN = ""  # stands for kernels that belong to no layer
MOST_BIAS_MS = 0.05  # of a profiler, per kernel
USUAL_SCALE, USUAL_BIAS_MS = 0.3, 0.01  # how far from 1 and from 0 the scale and the bias usually are
OUTLIER = 0.02  # relative error beyond which a network counts less


@dataclass(frozen=True)
class Observation:
    """A network of certain widths as it ran on the device.

    Attributes:
        widths: group name → channels.
        over_anchor: its time over the anchor's, both in their :func:`calmest` rounds.
        anchor_ms: the anchor's time per call, in those.
        null_ms: an empty call's.
        kernel_ms: layer → what its kernels took together, as the runtime's profiler saw it.
        kernels: layer → how many there were.
    """

    widths: Mapping[str, int]
    over_anchor: float
    anchor_ms: float
    null_ms: float
    kernel_ms: Mapping[str, float]
    kernels: Mapping[str, int]


def observed(
    reply: Mapping[str, Any], widths: Mapping[str, int], covers: Mapping[str, str], layers: Sequence[Layer]
) -> Observation:
    """Read a reply.

    A kernel belongs to the layer with weights that it covers, else to the first layer that it covers; one that covers
    nothing but what an earlier kernel did (it brings that one's output into another layout) belongs with that one.

    Args:
        reply: of a visit to ``NETWORK``.
        widths: of that network.
        covers: node of its graph → layer.
        layers: of the dense network, in execution order.

    Raises:
        MeasurementRefused: it was undisturbed together with the anchor in too few rounds.
    """
    order = {layer.name: (layer.op not in WEIGHT_OPS, index) for index, layer in enumerate(layers)}
    took: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    home: dict[str, str] = {}  # covered layer → owner of the first kernel that covers it
    for kernel in reply["kernels"].get(NETWORK, ()):
        owners = {covers[node] for node in kernel["covers"] if node in covers}
        owner = min(owners, key=order.__getitem__, default=UNKNOWN)
        owner = home.get(owner, owner)
        home = {**dict.fromkeys(owners, owner), **home}
        took[owner] += kernel["p50_ms"]
        count[owner] += 1
    candidates = reply["candidates"]
    return Observation(
        widths=widths,
        over_anchor=calmest(candidates[NETWORK]) / calmest(candidates["anchor"]),
        anchor_ms=calmest(candidates["anchor"]),
        null_ms=calmest(candidates["null"]),
        kernel_ms=dict(took),
        kernels=dict(count),
    )


def calmest(statistics: Mapping[str, Any]) -> float:
    """Time per call while nothing disturbed: the mean over the fastest sixth of the rounds, in ms.

    Where a core is shared with other machines, the processor is slower by a third for some milliseconds and then is
    not, and no counter tells. What disturbs only ever lengthens, so the fastest rounds are the undisturbed ones.

    Args:
        statistics: of one candidate (``device_runner.measure``).

    Raises:
        MeasurementRefused: fewer than 5 rounds had an undisturbed sample.
    """
    rounds = sorted(time for time in statistics["rounds_ms"] if time is not None)
    if len(rounds) < device_runner.MIN_ROUNDS:
        raise device_runner.MeasurementRefused(f"undisturbed in only {len(rounds)} rounds")
    return float(np.mean(rounds[: max(2, len(rounds) // 6)]))


def anchor_speed(observations: Sequence[Observation]) -> float:
    """The anchor's time at the speed of the device that all networks are brought to: its lower quartile, in ms."""
    return float(np.quantile([one.anchor_ms for one in observations], 0.25))


@dataclass(frozen=True)
class Shares:
    """What every layer of every observed network took, corrected.

    Attributes:
        layers: names of the layers that kernels were seen for.
        latency_ms: shape (networks, layers); each row sums to ``total_ms``.
        total_ms: every network's latency end to end, without an empty call, at one speed of the device.
        overhead_ms: what an empty call takes.
        kernel_bias_ms: by how much the profiler lengthens every kernel.
        kernel_scale: end-to-end time over the sum of the kernels, these lengths taken off.
        unattributed: part of the kernels' time that belongs to no layer of the network; it is spread over all.
    """

    layers: tuple[str, ...]
    latency_ms: Floats
    total_ms: Floats
    overhead_ms: float
    kernel_bias_ms: float
    kernel_scale: float
    unattributed: float


def shares(observations: Sequence[Observation]) -> Shares:
    """Turn what the profiler saw into parts of un-instrumented latency.

    All networks are brought to one speed of the device by the anchor that ran beside each. The profiler lengthens each
    kernel by about the same; end-to-end ≈ scale · Σ kernels − bias · number of kernels is fitted over all networks,
    robustly. What is left then sets each network's kernels in proportion to its own end-to-end time.
    """
    anchor_ms = anchor_speed(observations)
    overhead_ms = float(np.median([one.null_ms for one in observations]))
    total = np.array([max(one.over_anchor * anchor_ms - overhead_ms, 1e-4) for one in observations])
    names = tuple(dict.fromkeys(name for one in observations for name in one.kernel_ms))
    took = np.array([[one.kernel_ms.get(name, 0.0) for name in names] for one in observations])
    took *= np.array([anchor_ms / one.anchor_ms for one in observations])[:, None]
    count = np.array([[one.kernels.get(name, 0) for name in names] for one in observations])
    scale, bias = _calibrated(took.sum(axis=1), count.sum(axis=1), total)
    known = [index for index, name in enumerate(names) if name != UNKNOWN]
    corrected = np.maximum(scale * took - bias * count, 1e-5)[:, known]
    corrected *= (total / np.maximum(corrected.sum(axis=1), 1e-9))[:, None]
    unattributed = 1 - float(took[:, known].sum() / max(took.sum(), 1e-12))
    layers = tuple(names[index] for index in known)
    return Shares(layers, corrected, total, overhead_ms, bias, scale, unattributed)


def _calibrated(sums: Floats, counts: Floats, total: Floats) -> tuple[float, float]:
    def errors(values: Floats) -> Floats:
        # Networks that are much alike do not tell the two apart: then neither is far from what is usual.
        usual = OUTLIER / 10 * np.array([(values[0] - 1) / USUAL_SCALE, values[1] / USUAL_BIAS_MS])
        return np.concatenate([(values[0] * sums - values[1] * counts) / total - 1, usual])

    bounds = ([0.3, 0.0], [3.0, MOST_BIAS_MS])
    found = least_squares(errors, x0=[1.0, 0.001], bounds=bounds, loss="soft_l1", f_scale=OUTLIER)
    return float(found.x[0]), float(found.x[1])
