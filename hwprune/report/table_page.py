"""The page about a latency table, and about what it predicts for a network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from hwprune.latency import Entry, HeldOut, LatencyTable, Prediction
from hwprune.report import figures
from hwprune.report.content import Page, Picture, Promise, Section, Table
from hwprune.report.forms import Form, formed

MOST_STAIRCASES = 24  # the kinds of layer that take longest


def table_page(table: LatencyTable, *, title: str, prediction: Prediction | None = None, form: Form = "html") -> str:
    """One file: how well the table predicts, how latency follows channel counts, where a network's time goes.

    Args:
        table: any.
        title: what the page is about.
        prediction: of a network, from this table; its layers' parts of the time are shown.
        form: of the page.
    """
    ranked = sorted(table.entries, key=lambda entry: -float(entry.latency_ms.max()))
    sections = [
        Section(title="", words=(_about(table),)),
        *_held_out(table.held_out),
        *_shares(prediction),
        *_staircases([entry for entry in ranked if entry.sizes][:MOST_STAIRCASES], table.channel_step),
        _entries(ranked),
        _protocol(table),
    ]
    return formed(Page(title=title, verdict=(_verdict(table, prediction),), sections=tuple(sections)), form)


def _verdict(table: LatencyTable, prediction: Prediction | None) -> Promise:
    tested = f"tested on {table.held_out}" if table.held_out else "never tested on networks it had not seen"
    said = f"The table was {tested}."
    if prediction is None:
        return Promise(said)
    expected = ""
    if prediction.interval_ms:
        low, high = prediction.interval_ms
        expected = f"; {low:.4g} to {high:.4g} ms in nine of ten cases"
    return Promise(f"Predicted {prediction.latency_ms:.4g} ms, not measured{expected}. {said}")


def _about(table: LatencyTable) -> str:
    target = table.target
    return (
        f"{target.runtime}, {target.precision}, batch {target.batch}, threads {target.threads} on "
        f"{table.device.get('cpu') or 'an unnamed processor'}. Channel counts count in steps of {table.channel_step}; "
        f"a call costs {table.overhead_ms:.4g} ms besides its layers."
    )


def _held_out(held_out: HeldOut | None) -> Iterator[Section]:
    if held_out:
        draw = partial(figures.predicted_against_measured, held_out.predicted_ms, held_out.measured_ms)
        picture = Picture(draw, "predicted over measured latency of networks the table had not seen")
        yield Section(title="Predicted against measured", pictures=(picture,))


def _shares(prediction: Prediction | None) -> Iterator[Section]:
    if prediction:
        layers = prediction.per_layer
        draw = partial(figures.time_shares, [one.name for one in layers], [one.latency_ms for one in layers])
        picture = Picture(draw, "part of the predicted latency that each layer takes")
        rows = [(one.name, f"{one.latency_ms:.4f}", one.source) for one in layers]
        table = Table(("layer", "ms", "source"), rows, text=(2,), folded=f"{len(layers)} layers")
        yield Section(title="Where the time goes", pictures=(picture,), tables=(table,))


def _staircases(entries: list[Entry], step: int) -> Iterator[Section]:
    title = "Latency over channels"
    for entry in entries:
        picture = Picture(partial(_staircase, entry, step), f"latency of {entry.key} over channel counts")
        yield Section(title=title, words=(str(entry.key),), pictures=(picture,))
        title = ""


def _staircase(entry: Entry, step: int) -> str:
    *others, last = entry.sizes
    counts = np.arange(last[0], last[-1] + 1)
    curves = {}
    for size in dict.fromkeys(others[0][place] for place in (0, len(others[0]) // 2, -1)) if others else (None,):
        wanted = (counts,) if size is None else (np.array([size]), counts)
        values, _ = entry.at(wanted, step)
        label = "" if size is None else f"{entry.key.axes[0].replace('_', ' ')} {size}"
        curves[label] = values.ravel().tolist()
    return figures.staircase(counts.tolist(), curves, entry.key.axes[-1])


def _entries(ranked: list[Entry]) -> Section:
    headings = ("layer", "channels", "ms", "spread", "measurements", "how")
    folded = f"{len(ranked)} kinds of layer"
    return Section(title="Entries", tables=(Table(headings, list(map(_row, ranked)), text=(1, 5), folded=folded),))


def _row(entry: Entry) -> tuple[str, ...]:
    low, high = float(entry.latency_ms.min()), float(entry.latency_ms.max())
    spread = float(np.median(entry.iqr_ms / entry.latency_ms))
    ranges = [f"{axis} {sizes[0]}–{sizes[-1]}" for axis, sizes in zip(entry.key.axes, entry.sizes, strict=True)]
    return (
        str(entry.key),
        "; ".join(ranges),
        f"{low:.4g} – {high:.4g}" if high > low else f"{high:.4g}",
        f"{100 * spread:.1f} %",
        str(int(entry.repeats.sum())),
        entry.how,
    )


def _protocol(table: LatencyTable) -> Section:
    rows = [(str(name), str(value)) for name, value in table.protocol.items()]
    return Section(title="How it was measured", tables=(Table(("", ""), rows, text=(1,)),))
