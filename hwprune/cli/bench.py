"""``hwprune bench``: measure an engine on a target."""

from __future__ import annotations

from typing import Annotated

import typer

from hwprune.cli.options import Batch, Config, InputShapeOfModel, Json, Precision, Seed, Threads, inputs_in
from hwprune.cli.output import emit, milliseconds

NAME = "bench"


def command(
    subject: Annotated[str | None, typer.Argument(help="A bundle folder or an exported model.")] = None,
    model: Annotated[str | None, typer.Option(help="A model instead (file.py:factory, …).")] = None,
    input_shape: InputShapeOfModel = None,
    target: Annotated[
        str | None, typer.Option(help="Known target or TOML file; the bundle's own, or local-onnxruntime, if absent.")
    ] = None,
    threads: Threads = None,
    precision: Precision = None,
    batch: Batch = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Measure latency on a target; completes a bundle whose latency is only predicted."""
    from hwprune.errors import InputError
    from hwprune.verbs import bench, bench_target

    if (subject is None) == (model is None):
        raise InputError(
            "bench measures one thing", hint="give a bundle or an .onnx file, or --model with --input-shape"
        )
    if model is not None and not input_shape:
        raise InputError("--model needs --input-shape", hint="such as --input-shape 1,3,224,224")
    if model is None and input_shape:
        raise InputError("--input-shape goes with --model", hint="an engine has its own shape; leave it out")
    chosen = bench_target(subject, target, threads=threads, precision=precision, batch=batch)
    document = bench(
        subject or model or "",
        input_shape=inputs_in(input_shape) if input_shape else None,
        target=chosen,
    )
    text = milliseconds(document["latency_ms"])
    if document.get("budget") is not None:
        text += f"; budget {document['budget']:.4g} ms {'met' if document['budget_met'] else 'MISSED'}"
    emit(document, as_json=json, text=text)
    return 0 if document.get("budget_met") in (None, True) else 1
