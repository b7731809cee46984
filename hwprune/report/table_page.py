"""The page about a latency table, and about what it predicts for a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwprune.latency import Entry, LatencyTable, Prediction
from hwprune.report import figures
from hwprune.report.html import rendered

MOST_STAIRCASES = 24  # the kinds of layer that take longest


def table_page(table: LatencyTable, *, title: str, prediction: Prediction | None = None) -> str:
    """One HTML file: how well the table predicts, how latency follows channel counts, where a network's time goes.

    Args:
        table: any.
        title: what the page is about.
        prediction: of a network, from this table; its layers' parts of the time are shown.
    """
    ranked = sorted(table.entries, key=lambda entry: -float(entry.latency_ms.max()))
    held_out = table.held_out
    layers = prediction.per_layer if prediction else ()
    return rendered(
        "table.html.j2",
        title=title,
        table=table,
        entries=[_row(entry) for entry in ranked],
        staircases=[_staircase(entry, table.channel_step) for entry in ranked if entry.sizes][:MOST_STAIRCASES],
        prediction=prediction,
        layers=layers,
        pictures={
            "held_out": held_out and figures.predicted_against_measured(held_out.predicted_ms, held_out.measured_ms),
            "shares": prediction
            and figures.time_shares([one.name for one in layers], [one.latency_ms for one in layers]),
        },
    )


def _row(entry: Entry) -> dict[str, Any]:
    low, high = float(entry.latency_ms.min()), float(entry.latency_ms.max())
    spread = float(np.median(entry.iqr_ms / entry.latency_ms))
    return {
        "key": str(entry.key),
        "sizes": "; ".join(
            f"{axis} {sizes[0]}–{sizes[-1]}" for axis, sizes in zip(entry.key.axes, entry.sizes, strict=True)
        ),
        "latency_ms": f"{low:.4g} – {high:.4g}" if high > low else f"{high:.4g}",
        "spread": f"{100 * spread:.1f} %",
        "repeats": int(entry.repeats.sum()),
        "how": entry.how,
    }


def _staircase(entry: Entry, step: int) -> dict[str, Any]:
    *others, last = entry.sizes
    counts = np.arange(last[0], last[-1] + 1)
    curves = {}
    for size in dict.fromkeys(others[0][place] for place in (0, len(others[0]) // 2, -1)) if others else (None,):
        wanted = (counts,) if size is None else (np.array([size]), counts)
        values, _ = entry.at(wanted, step)
        label = "" if size is None else f"{entry.key.axes[0].replace('_', ' ')} {size}"
        curves[label] = values.ravel().tolist()
    picture = figures.staircase(counts.tolist(), curves, entry.key.axes[-1])
    return {"key": str(entry.key), "picture": picture}
