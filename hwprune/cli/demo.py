"""``hwprune demo``: the whole road on this machine, with nothing to prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import Config, Json, Seed
from hwprune.cli.output import emit

NAME = "demo"


def command(
    output: Annotated[Path, typer.Option(help="Folder to write; new, empty, or a demo that was interrupted.")] = Path(
        "demo"
    ),
    latency: Annotated[str, typer.Option(help="Latency budget: 0.5x or 2ms.")] = "0.5x",
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Train a small network on handwritten digits, profile this machine, compress, export, verify."""
    from hwprune.compression import Progress
    from hwprune.compression.demo import demo
    from hwprune.deploy import verify
    from hwprune.report import render_text

    run = demo(output, latency=latency, seed=seed, progress=Progress())
    verified = verify(run.bundle, latency=False)
    document = {**run.result, "verified": verified["ok"]}
    text = "\n".join([render_text(run.document), f"bundle   {run.bundle}", f"report   {run.path / 'report.html'}"])
    emit(document, as_json=json, text=text)
    return 0 if run.budget_met and verified["ok"] else 1
