"""``hwprune report``: the page about a run or a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import Config, Json, Seed
from hwprune.cli.output import emit

NAME = "report"


def command(
    run: Annotated[Path, typer.Argument(help="The folder that compress wrote, its bundle, or a table (.json).")],
    output: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the run, or beside the table.")
    ] = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Write the HTML page about a run or a latency table."""
    if run.suffix == ".json":
        return _table(run, output or run.with_suffix(".html"), as_json=json)
    from hwprune.report import render_text
    from hwprune.verbs import report

    path, document = report(run, output)
    emit({"report": str(path), **document["result"]}, as_json=json, text=f"{render_text(document)}\n{path}")
    return 0


def _table(path: Path, output: Path, *, as_json: bool) -> int:
    from hwprune.cli.checks import check_output_file
    from hwprune.files import write_atomic
    from hwprune.latency import LatencyTable
    from hwprune.report import table_page

    check_output_file(output)
    table = LatencyTable.load(path)
    write_atomic(output, table_page(table, title=f"Latency table of {table.target.name}"))
    document = {"report": str(output), "entries": len(table.entries)}
    about = f"{len(table.entries)} kinds of layer; {table.held_out or 'never tested on unseen networks'}"
    emit(document, as_json=as_json, text=f"{about}\n{output}")
    return 0
