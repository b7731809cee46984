"""Numbers as people read them."""

from __future__ import annotations

import math

UNKNOWN = "–"
_NAMES = {
    "latency_ms": "latency (ms)",
    "size_bytes": "file size (bytes)",
    "memory_bytes": "memory (bytes)",
    "macs": "multiply-accumulates",
}


def quantity(metric: str, value: float | None) -> str:
    """A value of a budget's metric or of the task's, with its unit.

    Args:
        metric: ``latency_ms``, ``size_bytes``, ``memory_bytes``, ``macs``, ``parameters``, ``accuracy``, or a
            metric of the user's own, which is shown as a bare number.
        value: None is shown as a dash, NaN in words.
    """
    if value is None:
        return UNKNOWN
    if math.isnan(value):
        return "not a number"
    if metric == "latency_ms":
        return f"{value:.4g} ms"
    if metric in ("size_bytes", "memory_bytes"):
        return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")), "B")
    if metric in ("macs", "parameters"):
        return _scaled(value, ((1e9, "G"), (1e6, "M"), (1e3, "k")), "")
    if metric == "accuracy":
        return f"{value:.2%}"
    return f"{value:.4g}"


def spelled(metric: str) -> str:
    """What a metric is called, with the unit of its bare numbers."""
    return _NAMES.get(metric, metric)


def change(metric: str, before: float | None, after: float | None) -> str:
    """How ``after`` stands to ``before``: in points for accuracy, otherwise as a factor."""
    if before is None or after is None:
        return UNKNOWN
    if metric == "accuracy":
        return f"{100 * (after - before):+.2f} points"
    if metric not in ("latency_ms", "size_bytes", "memory_bytes", "macs", "parameters"):
        return f"{after - before:+.4g}"
    return f"{after / before:.3g}×" if before else UNKNOWN


def _scaled(value: float, steps: tuple[tuple[float, str], ...], unit: str) -> str:
    for size, name in steps:
        if abs(value) >= size:
            return f"{value / size:.4g} {name}"
    return f"{value:.4g} {unit}".rstrip()
