"""The one table that says what a run came to."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwprune.report.content import Promise
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


def promises(result: Mapping[str, Any]) -> list[Promise]:
    """What was asked for, one sentence each, and whether it is so."""
    said = [] if result["budget_metric"] is None else [_first(result), *map(_other, result.get("other_budgets", ()))]
    if gates := result.get("gates"):
        said.append(_accuracy_gate(result["degradation"], gates))
    sparse = result.get("sparse")
    if sparse and sparse["requested"]:
        met = bool(sparse["met"])
        said.append(Promise(f"{sparse['requested']}: {_kept(met)}, {sparse['sparsity']:.2%} are zero", met))
    return said


def verdict(result: Mapping[str, Any]) -> str:
    """The promises, and whether they were kept."""
    return "; ".join(promise.text for promise in promises(result))


def score(result: Mapping[str, Any]) -> str:
    """What the task's metric was and is, in a sentence."""
    metric, before, after = str(result["metric"]), result["baseline_accuracy"], result["accuracy"]
    of = f" ({result['accuracy_of']})" if result.get("accuracy_of") else ""
    known = "" if before is None or after is None else f", {change(metric, before, after)}"
    return f"{metric}: {quantity(metric, before)} before, {quantity(metric, after)} after{of}{known}"


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


def _first(result: Mapping[str, Any]) -> Promise:
    """The budget that was used up."""
    metric, requested = result["budget_metric"], result["budget_requested"]
    limit, measured = result["budget"], result["measured"]
    shown = quantity(metric, limit)
    promise = f"budget {shown}" if str(requested) == shown else f"budget {shown} ({requested})"
    if measured is None:
        predicted = quantity(metric, result["predicted"])
        return Promise(f"{promise}: {predicted} predicted, not measured; hwprune bench on the device completes it")
    used = result["budget_used"]
    met = bool(used <= 1)
    kept = f"{_kept(met, metric, limit, measured)}, {quantity(metric, measured)} measured, {used:.1%} of it"
    return Promise(f"{promise}: {kept}", met)


def _accuracy_gate(lost: Mapping[str, Any], gates: Mapping[str, Any]) -> Promise:
    """What was lost against the model that was given, and how sure that is."""
    asked = [
        f"{gates['max_degradation']:g}" if gates["max_degradation"] is not None else "",
        f"{gates['percent_max_degradation']:g} %" if gates["percent_max_degradation"] is not None else "",
    ]
    interval = "" if lost["low"] is None else f" (lost: {lost['low']:+.4f} to {lost['high']:+.4f} at 95 %)"
    allowed, met = " and ".join(one for one in asked if one), bool(gates["met"])
    way = "fell" if lost["lost"] > 0 else "rose"
    text = f"{lost['metric']} may fall by {allowed}: {_kept(met)}, it {way} by {abs(lost['lost']):.4f}{interval}"
    return Promise(text, met)


def _other(budget: Mapping[str, Any]) -> Promise:
    """A budget beside the first."""
    metric, limit, measured, met = (budget[key] for key in ("metric", "limit", "measured", "met"))
    promise = f"budget {quantity(metric, limit)} ({budget['requested']})"
    if measured is None:
        return Promise(f"{promise}: not measured")
    return Promise(f"{promise}: {_kept(met, metric, limit, measured)}, {quantity(metric, measured)}", bool(met))


def _kept(met: bool, metric: str = "", limit: float = 0, measured: float = 0) -> str:
    if met:
        return "met"
    return f"MISSED by {quantity(metric, measured - limit)}" if metric else "MISSED"


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
