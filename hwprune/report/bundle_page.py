"""The page about a bundle that has no run beside it, made from its manifest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hwprune.report.content import Page, Promise, Section, Table
from hwprune.report.forms import Form, formed, write_page
from hwprune.report.measurement import measurement_section
from hwprune.report.origin import origin_sections
from hwprune.report.quantities import UNKNOWN, change, quantity
from hwprune.report.summary import promises

_PARITY = {
    "relative_l2": "relative L2 distance",
    "cosine": "cosine",
    "top1_agreement": "agreement of the first class",
    "samples": "samples",
}


def bundle_page(manifest: Mapping[str, Any], path: Path) -> Page:
    """The page.

    Args:
        manifest: the content of ``manifest.json``; what is not known there is left out.
        path: of the bundle.
    """
    latency, target = manifest.get("latency") or {}, manifest["target"]
    pair = {"baseline": latency.get("baseline_ms"), "candidate": latency.get("measured_ms")}
    if ratio := latency.get("ratio"):
        pair |= dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True))
    facts = {name: manifest.get(name) for name in ("target", "engine", "preprocessing", "source", "versions", "device")}
    sections = [
        Section(title="", tables=(Table(("", "before", "after", "change"), list(_rows(manifest))),)),
        *_parity(manifest.get("parity")),
        measurement_section(pair),
        _files(manifest.get("files") or {}),
        *origin_sections(
            f"hwprune verify {shlex.quote(str(path))}",
            ("There is no run beside this bundle. This checks its files, its outputs, and on the device its latency:",),
            facts,
        ),
    ]
    return Page(
        title=f"{path.absolute().name}, a bundle for {target['name']}",
        verdict=tuple(_verdict(manifest)),
        sections=tuple(sections),
    )


def write_bundle_report(
    path: Path, manifest: Mapping[str, Any], output: Path | None = None, form: Form = "html"
) -> Path:
    """Write the page about a bundle.

    Args:
        path: of the bundle.
        manifest: its content.
        output: the page; beside the bundle and named like it if absent, for a bundle holds what it lists and no more.
        form: of the page.

    Raises:
        InputError: the page cannot be written.
    """
    whole = path.absolute()
    return write_page(output or whole.with_name(f"{whole.name}.{form}"), formed(bundle_page(manifest, path), form))


def _verdict(manifest: Mapping[str, Any]) -> Iterator[Promise]:
    """The budget, held against the one number about the engine that is in its unit, and the gate of accuracy."""
    budget, predicted, measured = manifest.get("budget"), *_latencies(manifest)
    known, accuracy = {"latency_ms": measured, "size_bytes": _size(manifest)}, manifest.get("accuracy") or {}
    result = {"budget_metric": None, **{key: accuracy.get(key) for key in ("gates", "degradation")}}
    if not budget:
        yield Promise(f"no budget; latency {quantity('latency_ms', measured)} measured")
    elif budget["metric"] not in known:
        asked = f"budget {quantity(budget['metric'], budget['limit'])} ({budget['requested']})"
        yield Promise(f"{asked}: the bundle alone does not tell")
    else:
        metric, limit, value = budget["metric"], budget["limit"], known[budget["metric"]]
        used = None if value is None else value / limit
        result |= {"budget_metric": metric, "budget_requested": budget["requested"], "budget": limit}
        result |= {"budget_used": used, "measured": value, "predicted": predicted}
    yield from promises(result)


def _rows(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    if accuracy := manifest.get("accuracy"):
        metric = str(accuracy.get("metric") or "accuracy")
        yield _row(metric, metric, accuracy.get("dense"), accuracy.get("artifact"))
    predicted, measured = _latencies(manifest)
    baseline = ((manifest.get("latency") or {}).get("baseline_ms") or {}).get("p50_ms")
    yield _row("latency, measured", "latency_ms", baseline, measured)
    if predicted is not None:
        yield _row("latency, predicted", "latency_ms", None, predicted)
    yield _row("file size", "size_bytes", None, _size(manifest))


def _row(name: str, metric: str, before: float | None, after: float | None) -> tuple[str, str, str, str]:
    return name, quantity(metric, before), quantity(metric, after), change(metric, before, after)


def _latencies(manifest: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Predicted and measured, in milliseconds."""
    latency = manifest.get("latency") or {}
    return latency.get("predicted_ms"), (latency.get("measured_ms") or {}).get("p50_ms")


def _size(manifest: Mapping[str, Any]) -> float | None:
    name = (manifest.get("engine") or {}).get("file")
    size: float | None = ((manifest.get("files") or {}).get(name) or {}).get("bytes")
    return size


def _parity(parity: Mapping[str, Any] | None) -> list[Section]:
    if not parity:
        return []
    rows = [
        (name, UNKNOWN if parity[key] is None else f"{parity[key]:.6g}")
        for key, name in _PARITY.items()
        if key in parity
    ]
    return [Section(title="The engine's outputs against the model's", tables=(Table(("", ""), rows),))]


def _files(files: Mapping[str, Any]) -> Section:
    rows = [(str(name), quantity("size_bytes", one["bytes"]), str(one["sha256"])) for name, one in files.items()]
    return Section(title="Files", tables=(Table(("file", "size", "SHA-256"), rows, text=(2,)),))
