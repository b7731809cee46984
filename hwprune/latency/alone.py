"""Measuring every kind of layer of a network alone, over the channel counts it can be cut to.

The baseline for tables measured in context, and a fallback where a network cannot be built at other widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata

import numpy as np

from hwprune.latency.bench import Bench, Timing, probe_models, probe_visits, step_from
from hwprune.latency.entry import Entry
from hwprune.latency.fusion import FusionRules, fused_into
from hwprune.latency.isolate import copies, isolated_models
from hwprune.latency.key import costed_operands, key_of, sizes_of
from hwprune.latency.layer import Layer, Operand
from hwprune.latency.sampling import rounded_up, sample_sizes
from hwprune.latency.table import LatencyTable


def profile_alone(
    layers: Sequence[Layer],
    bench: Bench,
    *,
    points: int = 5,
    progress: Callable[[int, int, str], None] | None = None,
    dense: bytes | None = None,
) -> LatencyTable:
    """Measure a table that covers a network and everything it can be cut to.

    A layer that the runtime runs inside another's kernel is not measured: it costs what fusing leaves, nothing.

    Args:
        layers: of one traced network, in execution order.
        bench: what to measure with.
        points: samples per axis of channel counts, at least 2.
        progress: called with (kinds of layer done, kinds of layer, name of the next one).
        dense: the dense network, exported. It is timed end to end among the layers, and the table's scale makes
            their sum agree with it. Without it the scale is 1.

    Raises:
        MeasurementError: the device is too busy.
        MissingLatencyError: a layer cannot be run alone.
    """
    step = step_from(bench.connection.run(probe_visits(probe_models(bench.target), seed=bench.seed)))
    fused = fused_into(layers, FusionRules(bench.runtime))
    alone = [layer for layer in layers if layer.name not in fused]
    kinds: dict[str, list[Layer]] = {}
    for layer in alone:
        kinds.setdefault(key_of(layer).identity, []).append(layer)
    entries = []
    for done, same in enumerate(kinds.values()):
        if progress:
            progress(done, len(kinds), same[0].name)
        entries.append(_entry(same, bench, step=step, points=points))
    if progress:
        progress(len(kinds), len(kinds), "")
    table = _table(bench, tuple(entries), step=step, points=points)
    if dense is None:
        return table
    whole = bench.time([("dense", dense)], "the dense network")["dense"]
    return _scaled(_table(bench, table.entries, step=step, points=points), alone, whole.latency_ms)


def _table(bench: Bench, entries: tuple[Entry, ...], *, step: int, points: int) -> LatencyTable:
    return LatencyTable(
        target=bench.target,
        device=bench.connection.fingerprint(),
        protocol={
            **bench.protocol(),
            "points": points,
            "networks": 0,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "hwprune": metadata.version("hwprune"),
        },
        channel_step=step,
        scale=1.0,
        scale_source={"method": "none"},
        entries=entries,
    )


def _entry(same: Sequence[Layer], bench: Bench, *, step: int, points: int) -> Entry:
    """Measure layers that share a key over their channel counts."""
    layer = same[0]
    sizes = tuple(
        sample_sizes(
            {sizes_of(other)[axis] for other in same},
            {_smallest(costed_operands(other)[axis][1], sizes_of(other)[axis], step) for other in same},
            step=step,
            points=points,
        )
        for axis in range(len(costed_operands(layer)))
    )
    timings = _timings(layer, list(itertools.product(*sizes)), bench)
    shape = tuple(len(axis) for axis in sizes)
    return Entry(
        key=key_of(layer),
        sizes=sizes,
        latency_ms=np.array([timing.latency_ms for timing in timings]).reshape(shape),
        iqr_ms=np.array([timing.iqr_ms for timing in timings]).reshape(shape),
        repeats=np.array([timing.repeats for timing in timings]).reshape(shape),
    )


def _timings(layer: Layer, points: Sequence[tuple[int, ...]], bench: Bench) -> list[Timing]:
    """Time of a layer at each point.

    A layer alone also pays for bringing its input and output into the layout of its kernel, which layers of a network
    hand on to each other. Where the runtime adds outputs inside the kernel, several copies that are added differ from
    one by just what the layer costs within a network.
    """
    summed = bench.runtime.fuses("add", layer.op, rank=len(layer.output.shape))
    found = bench.time(isolated_models(layer, points, summed=summed), f"layer {layer.name}")
    if not summed:
        return [found[point, 1] for point in points]
    counts = [copies(layer, point) for point in points]
    return [found[p, n].above(found[p, 1], n - 1) for p, n in zip(points, counts, strict=True)]


def _smallest(operand: Operand, dense: int, step: int) -> int:
    """The least count that an axis can be cut to, as a step edge."""
    sizes = operand.positions
    least = operand.channels(sizes.size(dict.fromkeys(sizes.groups, 1)))  # a channel of every group
    return min(dense, rounded_up(least, step)) if sizes.addends else dense


def _scaled(table: LatencyTable, alone: Sequence[Layer], measured_ms: float) -> LatencyTable:
    sum_ms = sum(table.lookup(layer, sizes_of(layer)).latency_ms for layer in alone)
    source = {"method": "dense network end to end", "measured_ms": measured_ms, "sum_ms": float(f"{sum_ms:.6g}")}
    return replace(table, scale=measured_ms / sum_ms, scale_source=source)
