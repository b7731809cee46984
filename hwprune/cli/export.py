"""``hwprune export``: a model or a finished run to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.cli.options import (
    Batch,
    Config,
    InputShapeOfModel,
    Json,
    Precision,
    Seed,
    TargetName,
    Threads,
    Weights,
    flags,
    given,
    inputs_in,
)
from hwprune.cli.output import emit, milliseconds

NAME = "export"
_OF_A_MODEL = frozenset({"input_shape", "weights", "target", "threads", "precision", "batch", "storage"})


def command(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="The bundle folder to write; new or empty.")],
    run: Annotated[Path | None, typer.Argument(help="A folder that compress wrote.")] = None,
    model: Annotated[str | None, typer.Option(help="A model instead (file.py:factory, …).")] = None,
    input_shape: InputShapeOfModel = None,
    weights: Weights = None,
    target: TargetName = "local-onnxruntime",
    threads: Threads = None,
    precision: Precision = None,
    batch: Batch = None,
    storage: Annotated[
        str | None, typer.Option(help="ENCODING[-PRECISION][-COMPRESSION] of the engine file, such as gap8-int8-xz.")
    ] = None,
    sign: Annotated[Path | None, typer.Option(help="Sign with this private Ed25519 key (PEM).")] = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Export a model to a verified, measured bundle."""
    from hwprune.deploy import SigningKey, Storage
    from hwprune.errors import InputError
    from hwprune.targets import load_target
    from hwprune.verbs import copy_bundle, export

    if (run is None) == (model is None):
        raise InputError("export takes one thing", hint="give a run folder, or --model with --input-shape")
    key = None if sign is None else SigningKey(sign)
    if run is not None:
        unused = given(context) & _OF_A_MODEL
        if unused:
            raise InputError(
                f"{flags(unused)} cannot change a finished run: its bundle is copied as it was measured",
                hint="leave it out, or export a model with --model",
            )
        document = copy_bundle(run, output)
        if key is not None:
            key.sign(output)
        emit(document, as_json=json, text=str(output))
        return 0
    if model is None or not input_shape:
        raise InputError("--model needs --input-shape", hint="such as --input-shape 1,3,224,224")
    chosen = load_target(target, threads=threads, precision=precision, batch=batch)
    document = export(
        model,
        input_shape=inputs_in(input_shape),
        output=output,
        weights=weights,
        target=chosen,
        storage=None if storage is None else Storage.parse(storage),
        seed=seed,
    )
    if key is not None:
        key.sign(output)
    emit(document, as_json=json, text=f"{output}: {milliseconds(document['latency_ms'])}{_stored(document)}")
    return 0


def _stored(document: dict[str, Any]) -> str:
    """Bytes of an engine in another form than a plain ONNX file."""
    from hwprune.report.quantities import quantity

    if "engine" not in document:
        return ""
    engine = document["engine"]
    packed, plain = (quantity("size_bytes", engine[f"{form}_bytes"]) for form in ("packed", "unpacked"))
    return f"; {packed} as {engine['storage']}, {plain} as plain ONNX"
