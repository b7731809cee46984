"""What the user asks for: a budget as a number with a unit, or as a part of today's cost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from hwprune.errors import BudgetError

Metric = Literal["latency_ms", "size_bytes", "memory_bytes", "macs"]

MOST_TIMES = 100.0
_BYTES = {
    **{"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9},
    **{"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
}
UNITS: dict[str, dict[str, float]] = {
    "latency_ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "size_bytes": _BYTES,
    "memory_bytes": _BYTES,
    "macs": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
}
EXAMPLES = {
    "latency_ms": "0.5x (half of today's latency), 8ms, 800us or 1.2s",
    "size_bytes": "0.5x (half of today's size), 2MB, 1.5MiB or 200kB",
    "memory_bytes": "0.5x (half of what it takes today), 2MB, 1.5MiB or 200kB",
    "macs": "0.5x (half of today's), 100M or 1.2G",
}


@dataclass(frozen=True)
class Budget:
    """A limit on one metric.

    Attributes:
        metric: ``latency_ms``, ``size_bytes``, ``memory_bytes`` or ``macs``.
        value: in the unit of the metric; if ``relative``, a factor on the dense network's cost.
        relative: whether ``value`` is a factor.

    Raises:
        BudgetError: on construction, a value that is not positive, not finite or over 100 times today's cost.
    """

    metric: Metric
    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise BudgetError(f"unknown metric {self.metric!r}", hint=f"known: {', '.join(get_args(Metric))}")
        hint = f"give for example {EXAMPLES[self.metric]}"
        if not math.isfinite(self.value) or self.value <= 0:
            raise BudgetError(f"a budget of {self} cannot be met: it must be more than zero and finite", hint=hint)
        if self.relative and self.value > MOST_TIMES:
            raise BudgetError(f"a budget of {self} is over {MOST_TIMES:g} times today's cost", hint=hint)

    def __str__(self) -> str:
        unit = {"latency_ms": " ms", "macs": " MACs"}.get(self.metric, " bytes")
        return f"{self.value:g}{'x' if self.relative else unit}"

    def resolve(self, baseline: float) -> float:
        """The limit in the unit of the metric.

        Args:
            baseline: today's cost of the dense network, positive, in the unit of the metric.

        Raises:
            BudgetError: an absolute budget of over 100 times the baseline (most likely a wrong unit).
        """
        if self.relative:
            return self.value * baseline
        if self.value > MOST_TIMES * baseline:
            today = Budget(self.metric, baseline)
            raise BudgetError(
                f"a budget of {self} is over {MOST_TIMES:g} times today's {today}",
                hint=f"check the unit; give for example {EXAMPLES[self.metric]}",
            )
        return self.value


def parse_budget(metric: Metric, text: str) -> Budget:
    """Read a budget as typed on the command line: ``0.5x``, ``8ms``, ``2MB``, ``100M``.

    Args:
        metric: ``latency_ms``, ``size_bytes``, ``memory_bytes`` or ``macs``.
        text: a number and its unit; ``x`` means times today's cost.

    Raises:
        BudgetError: no number, a unit of something else, zero, negative, not finite, or over 100x.
    """
    hint = f"give for example {EXAMPLES[metric]}"
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\s\d.]*)\s*", text)
    if match is None:
        raise BudgetError(f"{text!r} is not a budget: it is not a number with a unit", hint=hint)
    number, unit = float(match[1]), match[2]
    if unit == "%":
        raise BudgetError(f"{text!r} could mean to keep or to remove so much", hint=f"{hint}; 0.3x keeps 30 %")
    if unit in ("x", "X", "×"):
        return Budget(metric, number, relative=True)
    units = UNITS[metric]
    if unit not in units:
        raise BudgetError(
            f"{text!r} has no unit" if not unit else f"{text!r} has the unit {unit!r}, which is not one of {metric}",
            hint=f"{hint}; units: x, {', '.join(u for u in units if u)}",
        )
    if metric == "macs" and 0 < number * units[unit] < 1:
        raise BudgetError(f"{text!r} is less than one multiply-accumulate", hint=f"{hint}; {number:g}x means a factor")
    return Budget(metric, number * units[unit])


def spell(metric: Metric, value: float) -> str:
    """An absolute budget in the words that :func:`parse_budget` reads: ``2.5ms``, ``200.1kB``, ``12.5M``."""
    divisor, unit = {"latency_ms": (1, "ms"), "macs": (1e6, "M")}.get(metric, (1e3, "kB"))
    return f"{value / divisor:.4g}{unit}"
