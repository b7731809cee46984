"""How well latency was measured: how often, how far apart, and what else the device was doing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwprune.report.content import Section, Table
from hwprune.report.quantities import UNKNOWN, quantity

UNMEASURED = "Nothing was measured on the device; hwprune bench, where it is at hand, completes the bundle."
_TIMES = {
    "p50_ms": "median",
    "p90_ms": "90th percentile",
    "min_ms": "least",
    "iqr_ms": "spread between the quartiles",
    "cpu_p50_ms": "median of the thread's CPU time",
}
_CONTENTION = {
    "clean_fraction": "undisturbed part of all samples",
    "psi_some_avg10": "CPU pressure, average of 10 s (%)",
    "load1": "load, average of 1 min",
    "other_cpus": "CPUs that others kept busy",
    "involuntary_switches": "involuntary context switches",
}


def measurement_section(pair: Mapping[str, Any]) -> Section:
    """Of the engines before and after.

    Args:
        pair: ``PairMeasurement.to_dict()``, or as much of it as is known; ``baseline`` and ``candidate`` may be None.
    """
    engines = [pair.get("baseline"), pair.get("candidate")]
    if not any(engines):
        return Section(title="Measurement", words=(UNMEASURED,))
    rows = [(name, *(_time(engine, key) for engine in engines)) for key, name in _TIMES.items()]
    rows.append(("samples", *(UNKNOWN if one is None else str(one["repeats"]) for one in engines)))
    rows.append(("of these disturbed, and left out", *map(_disturbed, engines)))
    known = [row for row in rows if set(row[1:]) != {UNKNOWN}]
    tables = [Table(("", "before", "after"), known)]
    if contention := pair.get("contention"):
        busy = [(_CONTENTION.get(key, str(key)), _plain(value)) for key, value in contention.items()]
        tables.append(Table(("", ""), busy, folded="what else the device was doing"))
    return Section(title="Measurement", words=tuple(_words(pair)), tables=tuple(tables))


def _words(pair: Mapping[str, Any]) -> list[str]:
    said = []
    if pair.get("ratio") is not None:
        ratio, low, high = (pair[key] for key in ("ratio", "ratio_low", "ratio_high"))
        rounds = f"{pair['rounds']} interleaved rounds" if pair.get("rounds") else "interleaved rounds"
        said.append(
            f"The engine takes {ratio:.3g}× the dense one's time, 95 % interval {low:.3g} to {high:.3g}, {rounds}."
        )
    if pair.get("clock"):
        said.append(f"Clock: {pair['clock']}.")
    return said


def _time(engine: Mapping[str, Any] | None, key: str) -> str:
    if engine is None or engine.get(key) is None:
        return UNKNOWN
    shown = quantity("latency_ms", engine[key])
    return f"{shown} ({engine[key] / engine['p50_ms']:.1%} of the median)" if key == "iqr_ms" else shown


def _disturbed(engine: Mapping[str, Any] | None) -> str:
    if engine is None or not engine["repeats"]:
        return UNKNOWN
    lost = engine["repeats"] - engine["clean"]
    return f"{lost} ({lost / engine['repeats']:.1%})"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else UNKNOWN if value is None else str(value)
