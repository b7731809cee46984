"""The page about several budgets: accuracy and saliency over what the networks cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hwprune.budget import Metric, Solver, load_problem
from hwprune.errors import InputError
from hwprune.report import figures
from hwprune.report.content import Link, Page, Picture, Promise, Section, Table
from hwprune.report.forms import Form, formed, write_page
from hwprune.report.quantities import quantity
from hwprune.report.summary import promises
from hwprune.report.tradeoff import run_points, tradeoff_picture

NAME = "frontier"


def sweep_page(documents: Sequence[Mapping[str, Any]], folders: Sequence[Path], form: Form = "html") -> str:
    """One file.

    Args:
        documents: of finished runs that differ in one budget, see :mod:`hwprune.report`.
        folders: of these runs; the widest one's problem shows what is left of saliency at every cost.
        form: of the page.
    """
    pairs = zip((document["result"] for document in documents), folders, strict=True)
    ordered = sorted(pairs, key=lambda pair: -float(pair[0]["budget"]))
    first, name = ordered[0][0], ordered[0][0]["metric"]
    rows = [_row(result, f"{folder.name}/report.{form}", folder.name) for result, folder in ordered]
    headings = ("run", "budget", "measured", name, "file size")
    verdicts = [Promise(f"{folder.name}: {text}", met) for result, folder in ordered for text, met in promises(result)]
    measured = [result for result, _ in ordered if result["measured"] is not None]
    points = [*run_points(first, "exported")[:1], *(point for one in measured for point in _exported(one))]
    pictures = (tradeoff_picture(points, first),) if measured else ()
    sections = [
        Section(title=f"{name} over the budget", pictures=pictures, tables=(Table(headings, rows),)),
        *_saliency(_hull(ordered[0][1] / "problem.json", first["budget_metric"]), first["budget_metric"]),
    ]
    page = Page(title=documents[0]["config"]["model"], verdict=tuple(verdicts), sections=tuple(sections))
    return formed(page, form)


def sweep_documents(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Documents and folders of the finished runs of a sweep, in its order.

    Raises:
        InputError: there is no sweep, or it cannot be read.
    """
    try:
        values = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["values"]
        runs = [folder / str(value) for value in values]
        read = [(json.loads((run / "run.json").read_text(encoding="utf-8")), run) for run in runs if _began(run)]
        return [(document, run) for document, run in read if document["status"] == "done"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read the sweep in {folder}: {error}", hint="give the folder that compress wrote"
        ) from error


def write_sweep(folder: Path, output: Path | None = None, form: Form = "html") -> Path:
    """Write the page about the runs of a sweep that are finished.

    Args:
        folder: of the sweep.
        output: the page; ``frontier.html`` or ``frontier.md`` in the folder if absent.
        form: of the page.

    Raises:
        InputError: no run of it is finished, or the page cannot be written.
    """
    found = sweep_documents(folder)
    if not found:
        raise InputError(
            f"no run of the sweep in {folder} is finished", hint="finish it with hwprune compress --resume"
        )
    page = sweep_page([document for document, _ in found], [run for _, run in found], form)
    return write_page(output or folder / f"{NAME}.{form}", page)


def _began(run: Path) -> bool:
    return (run / "run.json").exists()


def _exported(result: Mapping[str, Any]) -> list[figures.Point]:
    return [point for point in run_points(result, "exported") if point.kind == "exported"]


def _saliency(hull: Sequence[tuple[float, float]], metric: str) -> list[Section]:
    if not hull:
        return []
    draw = partial(figures.hull, [cost for cost, _ in hull], [kept for _, kept in hull], metric)
    said = (
        "What the joint solver keeps of the saliency that the widest run's network had before its last step: "
        "no widths of any cost keep more than the line."
    )
    picture = Picture(draw, "saliency kept over predicted cost")
    return [Section(title="Saliency over predicted cost", words=(said,), pictures=(picture,))]


def _hull(path: Path, metric: Metric) -> list[tuple[float, float]]:
    """Cost and share of the saliency along the frontier of a problem; nothing where it has none."""
    try:
        problem = load_problem(path)
        whole = problem.objective(problem.widest)
        return [(cost, kept / whole) for cost, kept, _ in Solver(problem).frontier(metric)] if whole else []
    except InputError:
        return []


def _row(result: Mapping[str, Any], page: str, name: str) -> tuple[str | Link, ...]:
    metric = result["budget_metric"]
    return (
        Link(name, page),
        quantity(metric, result["budget"]),
        "not measured" if result["measured"] is None else quantity(metric, result["measured"]),
        quantity(result["metric"], result["accuracy"]),
        quantity("size_bytes", result["size_bytes"]),
    )
