"""``hwprune export``: a model or a finished run to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.cli.options import (
    DATA,
    Batch,
    CalibrationSamples,
    Config,
    InputShapeOfModel,
    Json,
    MaxDegradation,
    PercentMaxDegradation,
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
_JUDGING = ("data", "task", "calibration_samples", "max_degradation", "percent_max_degradation", "force")
_OF_A_MODEL = frozenset(
    {
        "input_shape",
        "weights",
        "target",
        "threads",
        "precision",
        "batch",
        "storage",
        "opset",
        "dynamic_batch",
        *_JUDGING,
    }
)


def command(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="The bundle folder to write; new or empty.")],
    run: Annotated[Path | None, typer.Argument(help="A folder that compress wrote.")] = None,
    model: Annotated[str | None, typer.Option(help="A model instead (file.py:factory, …).")] = None,
    input_shape: InputShapeOfModel = None,
    weights: Weights = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA} Calibrates int8, and tells the engine's accuracy.")] = None,
    task: Annotated[Path | None, typer.Option(help="File with loss(model, batch) and evaluate(predict).")] = None,
    target: TargetName = "local-onnxruntime",
    threads: Threads = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, int8, several (fp32,int8), or auto, all that the runtime has; the fastest that passes is "
            "written, by measurement. Overrides the target's."
        ),
    ] = None,
    calibration_samples: CalibrationSamples = 128,
    max_degradation: MaxDegradation = None,
    percent_max_degradation: PercentMaxDegradation = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Write the one precision asked for, even if it is no faster, or fails a gate."),
    ] = False,
    batch: Batch = None,
    storage: Annotated[
        str | None, typer.Option(help="ENCODING[-PRECISION][-COMPRESSION] of the engine file, such as gap8-int8-xz.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Version of the ONNX operator set, instead of the exporter's.")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Leave the batch of the ONNX file open; it is measured at batch 1.")
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="Also write the engine as onnx, ort (ONNX Runtime's own), openvino (IR), triton (a model repository), "
            "or several (ort,triton), beside the bundle in OUTPUT-FORMAT; each is opened again and compared."
        ),
    ] = None,
    sign: Annotated[Path | None, typer.Option(help="Sign with this private Ed25519 key (PEM).")] = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Export a model to a verified, measured bundle."""
    from hwprune.deploy import Asked, Gates, SigningKey, Storage
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
        _check_formats(format, output, None)
        document = copy_bundle(run, output)
        if key is not None:
            key.sign(output)
        document |= _handed_over(format, output)
        emit(document, as_json=json, text="\n".join([str(output), *_formats(document)]))
        return 0
    if model is None or not input_shape:
        raise InputError("--model needs --input-shape", hint="such as --input-shape 1,3,224,224")
    chosen = load_target(target, threads=threads, batch=batch)
    _check_formats(format, output, chosen)
    gates = Gates(max_degradation=max_degradation, percent_max_degradation=percent_max_degradation)
    document = export(
        model,
        input_shape=inputs_in(input_shape),
        output=output,
        weights=weights,
        data=data,
        task=task,
        target=chosen,
        asked=Asked(
            precision=precision,
            gates=gates,
            samples=calibration_samples,
            force=force,
            opset=opset,
            dynamic_batch=dynamic_batch,
        ),
        storage=None if storage is None else Storage.parse(storage),
        seed=seed,
    )
    if document["bundle"] is not None:
        if key is not None:
            key.sign(output)
        document |= _handed_over(format, output)
    emit(document, as_json=json, text=_said(document))
    return 0 if document["passed"] else 1


def _check_formats(asked: str | None, output: Path, target: Any) -> None:
    """Refuse, before anything is written, formats that cannot be made or have no place; a run's target is ONNX's."""
    from hwprune.compression import RunFolder
    from hwprune.deploy.handover import folders_of, parse_formats
    from hwprune.targets import Target

    if asked is not None:
        for folder in folders_of(output, parse_formats(asked, target or Target(name="run"))).values():
            RunFolder.check_free(folder)


def _handed_over(asked: str | None, output: Path) -> dict[str, Any]:
    from hwprune.deploy import Bundle
    from hwprune.deploy.handover import hand_over, parse_formats

    if asked is None:
        return {}
    bundle = Bundle.load(output)
    return {"formats": hand_over(bundle, parse_formats(asked, bundle.target))}


def _formats(document: dict[str, Any]) -> list[str]:
    """Where the engine lies in other formats, and how far they are from the bundle's golden outputs."""
    return [
        f"{one['folder']}: {', '.join(one['files'])}, relative L2 error {one['relative_l2']:.2g}"
        for one in document.get("formats", [])
    ]


def _said(document: dict[str, Any]) -> str:
    """What was written, and why nothing else was."""
    lines = [
        f"{one['precision']} not written: {one['not_delivered']}"
        for one in document["precisions"]
        if one["not_delivered"]
    ]
    if document["bundle"] is None:
        return "\n".join([*lines, "nothing was written; --force writes a single precision all the same"])
    latency = milliseconds(document["latency_ms"])
    written = f"{document['bundle']}: {document['precision']}, {latency}{_stored(document)}"
    return "\n".join([written, *_formats(document), *_accuracy(document), *lines])


def _accuracy(document: dict[str, Any]) -> list[str]:
    """How the engine that was written compares with the model, and what of it is still in float32."""
    (one,) = (one for one in document["precisions"] if one["precision"] == document["precision"])
    said = []
    if found := one["accuracy"]:
        interval = "" if found["low"] is None else f" (95 % interval {found['low']:+.4f} to {found['high']:+.4f})"
        said.append(f"{found['metric']} {found['artifact']:.4g}, lost {found['lost']:+.4f}{interval}")
    if kept := one.get("kept_in_float"):
        said.append(f"kept in float32: {', '.join(node['layer'] or node['node'] for node in kept)}")
    return said


def _stored(document: dict[str, Any]) -> str:
    """Bytes of an engine in another form than a plain ONNX file."""
    from hwprune.report.quantities import quantity

    if "engine" not in document:
        return ""
    engine = document["engine"]
    packed, plain = (quantity("size_bytes", engine[f"{form}_bytes"]) for form in ("packed", "unpacked"))
    return f"; {packed} as {engine['storage']}, {plain} as plain ONNX"
