"""The one table that says what a run came to."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwprune.report.quantities import UNKNOWN, change, quantity

MOST_NAMES = 3  # of removed blocks


@dataclass(frozen=True)
class Row:
    """One line of the summary.

    Attributes:
        name: what it is about.
        before: of the dense network.
        after: of the compressed one.
        change: from the one to the other.
    """

    name: str
    before: str
    after: str
    change: str


def summary_rows(result: Mapping[str, Any]) -> list[Row]:
    """The lines of the summary; predicted and measured latency never share one."""
    metric, of = str(result["metric"]), result.get("accuracy_of")
    rows = [_row(f"{metric} ({of})" if of else metric, metric, result["baseline_accuracy"], result["accuracy"])]
    latency = _row("latency, measured", "latency_ms", result["baseline_latency_ms"], result["measured_latency_ms"])
    rows.append(
        Row(latency.name, latency.before, latency.after, _interval(result.get("latency_ratio"), latency.change))
    )
    if result["predicted_latency_ms"] is not None:
        rows.append(_row("latency, predicted", "latency_ms", None, result["predicted_latency_ms"]))
    for name, key in (("parameters", "parameters"), ("multiply-accumulates", "macs"), ("file size", "size_bytes")):
        rows.append(_row(name, key, result[f"baseline_{key}"], result[key]))
    if gone := result.get("removed_blocks"):
        rest = f" and {len(gone) - MOST_NAMES} more" if len(gone) > MOST_NAMES else ""
        left = str(result["blocks"] - len(gone))
        rows.append(
            Row("residual blocks", str(result["blocks"]), left, f"without {', '.join(gone[:MOST_NAMES])}{rest}")
        )
    if sparse := result.get("sparse"):
        rows += _sparse_rows(sparse)
    memory = "activation memory" if result["memory_of"] == "activations" else "memory"
    before, after = result["baseline_memory_bytes"], result["measured_memory_bytes"]
    rows.append(_row(f"{memory}, measured", "memory_bytes", before, after))
    if after is None or result["budget_metric"] == "memory_bytes":
        rows.append(_row(f"{memory}, predicted", "memory_bytes", None, result["predicted_memory_bytes"]))
    return rows


def verdict(result: Mapping[str, Any]) -> str:
    """The promise, and whether it was kept."""
    said = [] if result["budget_metric"] is None else [_first(result), *map(_other, result.get("other_budgets", ()))]
    if gates := result.get("gates"):
        said.append(_accuracy_gate(result["degradation"], gates))
    sparse = result.get("sparse")
    if sparse and sparse["requested"]:
        said.append(f"{sparse['requested']}: {'met' if sparse['met'] else 'MISSED'}, {sparse['sparsity']:.2%} are zero")
    return "; ".join(said)


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What else is to be known about the result, in sentences."""
    said = []
    if kept := (result.get("precision") or {}).get("kept_in_float"):
        said.append(f"Kept in float32: {', '.join(node['layer'] or node['node'] for node in kept)}.")
    sparse = result.get("sparse")
    if not sparse:
        return said
    said += ["Zeros make the stored file smaller, not a dense runtime faster."]
    return said + ([sparse["remark"]] if sparse.get("remark") else [])


def _first(result: Mapping[str, Any]) -> str:
    """The promise of the budget that was used up."""
    metric, requested = result["budget_metric"], result["budget_requested"]
    limit = quantity(metric, result["budget"])
    promise = f"budget {limit}" if str(requested) == limit else f"budget {limit} ({requested})"
    if result["budget_met"] is None:
        predicted = quantity(metric, result["predicted"])
        return f"{promise}: {predicted} predicted, not measured; hwprune bench on the device completes it"
    kept = "met" if result["budget_used"] <= 1 else "MISSED"
    return f"{promise}: {kept}, {quantity(metric, result['measured'])} measured, {result['budget_used']:.1%} of it"


def _accuracy_gate(lost: Mapping[str, Any], gates: Mapping[str, Any]) -> str:
    """The promise about accuracy: what was lost against the model that was given, and how sure that is."""
    asked = [
        f"{gates['max_degradation']:g}" if gates["max_degradation"] is not None else "",
        f"{gates['percent_max_degradation']:g} %" if gates["percent_max_degradation"] is not None else "",
    ]
    interval = "" if lost["low"] is None else f" (lost: {lost['low']:+.4f} to {lost['high']:+.4f} at 95 %)"
    allowed = " and ".join(one for one in asked if one)
    met = "met" if gates["met"] else "MISSED"
    way = "fell" if lost["lost"] > 0 else "rose"
    return f"{lost['metric']} may fall by {allowed}: {met}, it {way} by {abs(lost['lost']):.4f}{interval}"


def _other(budget: Mapping[str, Any]) -> str:
    """The promise of a budget beside the first."""
    limit, measured = (quantity(budget["metric"], budget[key]) for key in ("limit", "measured"))
    return f"budget {limit} ({budget['requested']}): {'met' if budget['met'] else 'MISSED'}, {measured}"


def summary_table(document: Mapping[str, Any]) -> Table:
    """The summary for a terminal.

    Args:
        document: of a finished run; see :mod:`hwprune.report`.
    """
    result = document["result"]
    caption = Text("\n".join([verdict(result), *remarks(result)]))
    table = Table(title=Text(str(document["config"]["model"])), caption=caption, caption_justify="left")
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for row in summary_rows(result):  # Text: a model's name is not markup
        table.add_row(*(Text(cell) for cell in (row.name, row.before, row.after, row.change)))
    return table


def render_text(document: Mapping[str, Any], *, width: int = 100) -> str:
    """The summary as plain text, ``width`` columns wide at most."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(document))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().rstrip("\n")


def _sparse_rows(sparse: Mapping[str, Any]) -> list[Row]:
    """Zeros, what they save in the stored file, and what recovery did."""
    rows = [Row("weights that are zero", UNKNOWN, f"{sparse['sparsity']:.2%}", str(sparse["rule"]))]
    name = f"stored file ({sparse['storage']})"
    rows.append(_row(name, "size_bytes", sparse["dense_stored_bytes"], sparse["stored_bytes"]))
    return rows


def _row(name: str, metric: str, before: float | None, after: float | None) -> Row:
    return Row(name, quantity(metric, before), quantity(metric, after), change(metric, before, after))


def _interval(ratio: tuple[float, float, float] | list[float] | None, otherwise: str) -> str:
    """The measured ratio with its interval: a claim of faster or slower needs one."""
    if not ratio:
        return otherwise
    median, low, high = ratio
    shown = f"{median:.3g}× [{low:.3g}, {high:.3g}]"
    return shown if high < 1 or low > 1 else f"{shown}, no difference shown"
