"""The page about a run: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwprune.errors import InputError
from hwprune.files import write_atomic
from hwprune.report import figures
from hwprune.report.html import rendered
from hwprune.report.quantities import quantity
from hwprune.report.summary import remarks, summary_rows, verdict


def html_report(document: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page.

    Args:
        document: of a finished run; see :mod:`hwprune.report`.
        history: the events of ``history.jsonl``; ``epoch`` and ``prune_epoch`` are shown.
    """
    result, groups, layers = document["result"], document["groups"], document["layers"]
    metric = result["budget_metric"]
    trials = document["stages"]["settle"]["trials"]
    epochs = [event for event in history if event["event"] in ("prune_epoch", "epoch")]
    return rendered(
        "report.html.j2",
        model=document["config"]["model"],
        rows=summary_rows(result),
        verdict=verdict(result),
        remarks=remarks(result),
        sparse=result.get("sparse"),
        kept=result["budget_met"],
        groups=groups,
        layers=layers,
        epochs=epochs,
        metric=result["metric"],
        trials=[
            {"predicted": quantity(metric, trial["predicted"]), "measured": quantity(metric, trial["measured"])}
            for trial in trials
        ],
        pictures={
            "groups": figures.widths(groups) if groups else None,
            "layers": figures.layers(layers) if layers else None,
            "epochs": figures.history(epochs, result["metric"]) if epochs else None,
            "trials": figures.trials(trials, result["budget"], metric) if trials else None,
            **_mask_pictures(document.get("mask_updates") or {}, groups),
        },
        grown=(document.get("mask_updates") or {}).get("grown"),
        facts={name: document.get(name) or {} for name in ("config", "device", "versions")},
    )


def _mask_pictures(updates: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """What became of single weights and of channels, update by update."""
    weights, channels = updates.get("weights"), updates.get("channels")
    pictures: dict[str, str | None] = dict.fromkeys(("densities", "exchange", "widths over time"))
    if weights:
        shares = {name: [update["densities"][name] for update in weights] for name in weights[0]["densities"]}
        steps = [update["step"] for update in weights]
        pictures["densities"] = figures.masks(shares, steps, "weights", "step of fine-tuning")
        pictures["exchange"] = figures.exchange(weights)
    if channels:
        whole = {group["name"]: group["channels"] for group in groups}
        shares = {name: [one["widths"][name] / whole[name] for one in channels] for name in channels[0]["widths"]}
        epochs = [one["epoch"] for one in channels]
        pictures["widths over time"] = figures.masks(shares, epochs, "channels", "epoch that pruned")
    return pictures


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the page about the run in a folder.

    Args:
        run: folder with ``run.json`` and ``history.jsonl``.
        output: the page; ``report.html`` in the folder if absent.

    Returns:
        The page's path.

    Raises:
        InputError: there is no finished run, or the page cannot be written.
    """
    output = output or run / "report.html"
    try:
        document = json.loads((run / "run.json").read_text(encoding="utf-8"))
        page = html_report(document, _events(run / "history.jsonl"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the run in {run}: {error}", hint="give the folder that compress wrote"
        ) from error
    except KeyError as error:
        raise InputError(
            f"the run in {run} has no {error} yet", hint="finish it with hwprune compress --resume"
        ) from error
    try:
        write_atomic(output, page)
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror or error}", hint="choose a folder with space and write permission"
        ) from error
    return output


def _events(path: Path) -> list[dict[str, Any]]:
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # a kill cut this line short
    return events
