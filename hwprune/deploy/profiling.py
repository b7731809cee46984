"""A latency table of one network: every layer alone, scaled to the whole measured end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hwprune.deploy.latency import measure_one
from hwprune.latency import LatencyTable, profile
from hwprune.network import Network
from hwprune.targets import Target


def profile_network(
    network: Network,
    dense: Path,
    target: Target,
    *,
    points: int = 5,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> LatencyTable:
    """Measure every layer of a network over the channel counts it can be cut to.

    Args:
        network: traced at the target's batch size.
        dense: its exported engine; the sum of the layers is scaled to what this measures.
        target: a device at hand.
        points: samples per channel dimension of a layer.
        seed: of random inputs and of the order of measurements.
        progress: called with (layers done, layers, layer).

    Raises:
        MeasurementError: the device was too busy.
        MissingLatencyError: a layer cannot be measured alone.
    """
    measured = measure_one(dense, target, seed=seed).latency.p50_ms
    return profile(network.layers, target, points=points, seed=seed, progress=progress, measured_ms=measured)
