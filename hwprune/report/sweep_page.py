"""The page about several budgets: accuracy and saliency over what the networks cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwprune.budget import Solver, load_problem
from hwprune.errors import InputError
from hwprune.report import figures
from hwprune.report.html import rendered
from hwprune.report.quantities import quantity
from hwprune.report.summary import verdict


def sweep_page(documents: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> str:
    """One HTML file.

    Args:
        documents: of finished runs that differ in one budget, see :mod:`hwprune.report`.
        folders: of these runs; the widest one's problem shows what is left of saliency at every cost.
    """
    results = [document["result"] for document in documents]
    metric = results[0]["budget_metric"]
    ordered = sorted(zip(results, folders, strict=True), key=lambda pair: float(pair[0]["budget"]))
    hull = _hull(ordered[-1][1] / "problem.json", metric)
    return rendered(
        "sweep.html.j2",
        title=documents[0]["config"]["model"],
        rows=[_row(result, folder.name) for result, folder in reversed(ordered)],
        name=results[0]["metric"],
        pictures={
            "accuracy": _accuracy(results),
            "saliency": figures.hull([cost for cost, _ in hull], [kept for _, kept in hull], metric) if hull else None,
        },
    )


def _accuracy(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Of the networks that were measured."""
    known = [result for result in results if result["measured"] is not None]
    if not known:
        return None
    measured, scores = [result["measured"] for result in known], [result["accuracy"] for result in known]
    first = known[0]
    return figures.frontier(
        measured, scores, first["budget_metric"], first["metric"], baseline=first["baseline_accuracy"]
    )


def _hull(path: Path, metric: str) -> list[tuple[float, float]]:
    """Cost and share of the saliency along the frontier of a problem; nothing where it has none."""
    try:
        problem = load_problem(path)
        whole = problem.objective(problem.widest)
        return [(cost, kept / whole) for cost, kept, _ in Solver(problem).frontier(metric)] if whole else []
    except InputError:
        return []


def _row(result: Mapping[str, Any], name: str) -> dict[str, str]:
    metric = result["budget_metric"]
    return {
        "name": name,
        "budget": quantity(metric, result["budget"]),
        "measured": "not measured" if result["measured"] is None else quantity(metric, result["measured"]),
        "accuracy": quantity(result["metric"], result["accuracy"]),
        "size": quantity("size_bytes", result["size_bytes"]),
        "verdict": verdict(result),
    }
