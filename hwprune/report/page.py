"""The page about a run, made from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hwprune.budget import Problem, load_problem
from hwprune.errors import InputError
from hwprune.report import figures
from hwprune.report.content import Page, Picture, Promise, Section, Table
from hwprune.report.forms import Form, formed, write_page
from hwprune.report.masks import mask_section
from hwprune.report.measurement import measurement_section
from hwprune.report.origin import compress_command, origin_sections
from hwprune.report.quantities import quantity, spelled
from hwprune.report.summary import promises, remarks, score, summary_rows
from hwprune.report.sweep_page import sweep_documents
from hwprune.report.tradeoff import pruned_points, run_points, staircase_curves, tradeoff_picture

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What lies beside the document of a run.

    Attributes:
        history: the events of ``history.jsonl``; ``epoch`` and ``prune_epoch`` are shown.
        problem: the last one that was solved.
        others: documents of the other runs of the same sweep.
    """

    history: Sequence[Document] = ()
    problem: Problem | None = None
    others: Sequence[Document] = ()


ALONE = Beside()


def html_report(document: Document, beside: Beside = ALONE) -> str:
    """The page of :func:`run_page` as HTML."""
    return formed(run_page(document, beside), "html")


def run_page(document: Document, beside: Beside = ALONE) -> Page:
    """The page.

    Args:
        document: of a finished run; see :mod:`hwprune.report`.
        beside: what else is known.
    """
    result, config = document["result"], document["config"]
    facts = {"settings": config, "versions": document.get("versions"), "device": document.get("device")}
    pair = (document["stages"].get("measured") or {}).get("pair") or {}
    summary = Table(("", "before", "after", "change"), [tuple(vars(row).values()) for row in summary_rows(result)])
    sections = [
        Section(title="", words=tuple(remarks(result)), tables=(summary,)),
        *_tradeoff(document, beside),
        _widths(document["groups"], result, beside.problem),
        *_zeros(result.get("sparse")),
        *_layers(document["layers"]),
        *_training([event for event in beside.history if event["event"] in ("prune_epoch", "epoch")], result["metric"]),
        *mask_section(document.get("mask_updates") or {}, document["groups"]),
        *_closed_loop(document["stages"]["settle"]["trials"], result),
        measurement_section(pair or {"baseline": result.get("baseline_latency")}),
        *origin_sections(compress_command(config), _again(document), facts),
    ]
    return Page(
        title=str(config["model"]), verdict=(*promises(result), Promise(score(result))), sections=tuple(sections)
    )


def _tradeoff(document: Document, beside: Beside) -> Iterator[Section]:
    """Accuracy over cost, where there is more than the dense network to show."""
    result = document["result"]
    points = run_points(result, "this run")
    pruned = pruned_points(result, beside.history, beside.problem)
    others = [point for other in beside.others for point in run_points(other["result"], "other runs of the sweep")[1:]]
    if len(points) > 1:
        title = f"{result['metric']} against {spelled(result['budget_metric'] or 'latency_ms')}"
        yield Section(title=title, pictures=(tradeoff_picture([*points, *others, *pruned], result),))


def _widths(groups: Sequence[Document], result: Document, problem: Problem | None) -> Section:
    rows = [(str(g["name"]), str(g["channels"]), str(g["kept"]), str(g["frozen"] or "")) for g in groups]
    pictures = [Picture(partial(figures.widths, groups), "channels of every group before and after")] if groups else []
    chosen = {group["name"]: group["kept"] for group in groups}
    curves = staircase_curves(problem, chosen, result["budget_metric"])
    if curves:
        draw = partial(figures.staircases, curves, chosen, result["budget_metric"])
        pictures.append(Picture(draw, "predicted cost of the network over the width of each group"))
    folded = f"{len(groups)} channel groups"
    headings = ("group", "before", "after", "why it cannot be cut")
    return Section(title="Widths", pictures=tuple(pictures), tables=(Table(headings, rows, text=(3,), folded=folded),))


def _zeros(sparse: Document | None) -> Iterator[Section]:
    if sparse:
        rows = [(str(name), f"{100 * density:.2f}", "") for name, density in sparse["densities"].items()]
        rows += [(str(name), "", str(reason)) for name, reason in sparse["left_out"].items()]
        folded = f"{len(sparse['densities'])} weights, {100 * sparse['sparsity']:.2f} % of their elements zero"
        headings = ("weight", "not zero (%)", "why it was left out")
        yield Section(title="Zeros", tables=(Table(headings, rows, text=(2,), folded=folded),))


def _layers(layers: Sequence[Document]) -> Iterator[Section]:
    if layers:
        rows = [
            (str(one["name"]), f"{one['before_ms']:.4g}", f"{one['after_ms']:.4g}", str(one["source"]))
            for one in layers
        ]
        description = "predicted latency of the most expensive layers before and after"
        table = Table(("layer", "before (ms)", "after (ms)", "source"), rows, text=(3,), folded=f"{len(layers)} layers")
        yield Section(
            title="Layers, as the latency table predicts them",
            pictures=(Picture(partial(figures.layers, layers), description),),
            tables=(table,),
        )


def _training(epochs: Sequence[Document], metric: str) -> Iterator[Section]:
    if epochs:
        phases = ["prune while training" if epoch["event"] == "prune_epoch" else "fine-tune" for epoch in epochs]
        scores = [quantity(metric, epoch["metric"]) if "metric" in epoch else "" for epoch in epochs]
        rows = [
            (str(place), phase, quantity("loss", epoch["loss"]), score)
            for place, (epoch, phase, score) in enumerate(zip(epochs, phases, scores, strict=True), 1)
        ]
        picture = Picture(partial(figures.history, epochs, metric), "loss and metric over the epochs")
        table = Table(("epoch", "phase", "loss", metric), rows, text=(1,), folded=f"{len(epochs)} epochs")
        yield Section(title="Training", pictures=(picture,), tables=(table,))


def _closed_loop(trials: Sequence[Document], result: Document) -> Iterator[Section]:
    if trials:
        metric = result["budget_metric"]
        rows = [
            (str(place), quantity(metric, trial["predicted"]), quantity(metric, trial["measured"]))
            for place, trial in enumerate(trials, 1)
        ]
        draw = partial(figures.trials, trials, result["budget"], metric)
        yield Section(
            title="Closed loop",
            words=("Each network was exported and measured, in this order; the first is the dense one.",),
            pictures=(Picture(draw, "predicted and measured value of every trial against the budget"),),
            tables=(Table(("trial", "predicted by table", "measured"), rows),),
        )


def _again(document: Document) -> list[str]:
    bundle = document["result"].get("bundle")
    check = [f"hwprune verify {bundle} checks the engine that was delivered."] if bundle else []
    return ["The run, from the folder that it was started in; give it a new --output.", *check]


def write_report(run: Path, output: Path | None = None, form: Form = "html") -> Path:
    """Write the page about the run in a folder.

    Args:
        run: folder with ``run.json``; ``history.jsonl``, ``problem.json`` and the sweep around it are read if there.
        output: the page; ``report.html`` or ``report.md`` in the folder if absent.
        form: of the page.

    Returns:
        The page's path.

    Raises:
        InputError: there is no finished run, or the page cannot be written.
    """
    try:
        document = json.loads((run / "run.json").read_text(encoding="utf-8"))
        beside = Beside(history=_events(run / "history.jsonl"), problem=_problem(run), others=_others(run))
        page = html_report(document, beside) if form == "html" else formed(run_page(document, beside), form)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the run in {run}: {error}", hint="give the folder that compress wrote"
        ) from error
    except KeyError as error:
        raise InputError(
            f"the run in {run} has no {error} yet", hint="finish it with hwprune compress --resume"
        ) from error
    return write_page(output or run / f"report.{form}", page)


def _events(path: Path) -> list[dict[str, Any]]:
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # a kill cut this line short
    return events


def _problem(run: Path) -> Problem | None:
    try:
        return load_problem(run / "problem.json")
    except InputError:
        return None


def _others(run: Path) -> list[Document]:
    try:
        return [document for document, folder in sweep_documents(run.parent) if folder.name != run.name]
    except InputError:
        return []
