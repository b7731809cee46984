"""``hwprune report``: the page about a run, a sweep, a bundle or a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwprune.cli.options import Config, Json, Seed
from hwprune.cli.output import emit

if TYPE_CHECKING:
    from hwprune.report import Form

NAME = "report"


def command(
    run: Annotated[Path, typer.Argument(help="The folder that compress wrote, a bundle, or a table (.json).")],
    output: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the run, or beside the bundle or table.")
    ] = None,
    format: Annotated[str, typer.Option(help="html, or md: verdict and tables for a pull request.")] = "html",
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Write the page about a run, several runs, a bundle or a latency table."""
    from hwprune.report import form_of, render_text
    from hwprune.verbs import report

    form = form_of(format)
    if run.suffix == ".json":
        return _table(run, output, form, as_json=json)
    if (run / "sweep.json").exists():
        return _sweep(run, output, form, as_json=json)
    if (run / "manifest.json").exists() and not (run.absolute().parent / "run.json").exists():
        return _bundle(run, output, form, as_json=json)
    path, document = report(run, output, form)
    emit({"report": str(path), **document["result"]}, as_json=json, text=f"{render_text(document)}\n{path}")
    return 0


def _sweep(folder: Path, output: Path | None, form: Form, *, as_json: bool) -> int:
    from hwprune.report import write_sweep

    path = write_sweep(folder, output, form)
    emit({"report": str(path)}, as_json=as_json, text=str(path))
    return 0


def _bundle(path: Path, output: Path | None, form: Form, *, as_json: bool) -> int:
    from hwprune.deploy import Bundle
    from hwprune.report import write_bundle_report

    bundle = Bundle.load(path)
    page = write_bundle_report(path, bundle.manifest, output, form)
    emit({"report": str(page), "bundle": str(path)}, as_json=as_json, text=str(page))
    return 0


def _table(path: Path, output: Path | None, form: Form, *, as_json: bool) -> int:
    from hwprune.cli.checks import check_output_file
    from hwprune.latency import LatencyTable
    from hwprune.report import table_page, write_page

    output = output or path.with_suffix(f".{form}")
    check_output_file(output)
    table = LatencyTable.load(path)
    write_page(output, table_page(table, title=f"Latency table of {table.target.name}", form=form))
    document = {"report": str(output), "entries": len(table.entries)}
    about = f"{len(table.entries)} kinds of layer; {table.held_out or 'never tested on unseen networks'}"
    emit(document, as_json=as_json, text=f"{about}\n{output}")
    return 0
