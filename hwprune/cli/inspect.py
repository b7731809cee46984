"""``hwprune inspect``: what can be cut from a model, what that is worth, and what cannot be cut and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import Config, HeadSizes, InputShape, Json, Model, Seed, inputs_in
from hwprune.cli.output import emit

NAME = "inspect"


def command(
    model: Model,
    input_shape: InputShape,
    svg: Annotated[Path | None, typer.Option(help="SVG file to write: the network, channel groups in colour.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every group that cannot be cut on a line of its own.")] = False,
    head_sizes: HeadSizes = False,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Show what can be cut from a model, what that is worth, and what cannot be cut and why."""
    shape = inputs_in(input_shape)
    from hwprune.cli.checks import check_output_file
    from hwprune.report import inspection_text
    from hwprune.verbs import inspect

    if svg is not None:
        check_output_file(svg)
    document = inspect(model, input_shape=shape, svg=svg, head_sizes=head_sizes, seed=seed)
    text = inspection_text(document, every=all)
    if svg is not None:
        document["svg"] = str(svg)
        text += f"\n{svg}"
    emit(document, as_json=json, text=text)
    return 0
