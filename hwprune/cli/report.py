"""``hwprune report``: the page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import Config, Json, Seed
from hwprune.cli.output import emit

NAME = "report"


def command(
    run: Annotated[Path, typer.Argument(help="The folder that compress wrote, or its bundle.")],
    output: Annotated[Path | None, typer.Option(help="The page to write; report.html in the run if absent.")] = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Write the HTML page about a run and print its table."""
    from hwprune.report import render_text
    from hwprune.verbs import report

    path, document = report(run, output)
    emit({"report": str(path), **document["result"]}, as_json=json, text=f"{render_text(document)}\n{path}")
    return 0
