"""``hwprune compress``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.cli.options import Batch, Config, Json, Precision, Seed, TargetName, Threads, Weights, parse_shape
from hwprune.cli.output import emit

NAME = "compress"


def command(
    output: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    model: Annotated[
        str | None,
        typer.Option(help="file.py:factory, package.module:factory, zoo:NAME, timm:NAME or torchvision:NAME."),
    ] = None,
    input_shape: Annotated[str | None, typer.Option(help="Shape of one input, batch first: 1,3,224,224.")] = None,
    data: Annotated[
        str | None, typer.Option(help="ImageFolder directory, .parquet, .npz, digits, or file.py:factory.")
    ] = None,
    weights: Weights = None,
    task: Annotated[Path | None, typer.Option(help="File with loss(model, batch) and evaluate(predict).")] = None,
    target: TargetName = "local-onnxruntime",
    threads: Threads = None,
    precision: Precision = None,
    batch: Batch = None,
    table: Annotated[Path | None, typer.Option(help="Latency table of the target; measured now if absent.")] = None,
    latency: Annotated[str | None, typer.Option(help="Latency budget: 0.5x or 8ms.")] = None,
    size: Annotated[str | None, typer.Option(help="File size budget: 0.5x or 2MB.")] = None,
    macs: Annotated[str | None, typer.Option(help="Multiply-accumulate budget: 0.5x or 100M.")] = None,
    method: Annotated[str, typer.Option(help="halp (prunes while training) or halp-oneshot.")] = "halp",
    criterion: Annotated[str, typer.Option(help="What a channel is worth.")] = "taylor-bn",
    prune_steps: Annotated[int, typer.Option(help="Prune steps of method halp.")] = 10,
    prune_epochs: Annotated[int, typer.Option(help="Epochs over which they are spread.")] = 1,
    saliency_batches: Annotated[int, typer.Option(help="Batches that halp-oneshot scores channels on.")] = 32,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning after the cut.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Training batch size.")] = 64,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing of the classification loss.")] = 0.0,
    distill: Annotated[float, typer.Option(help="Weight of distillation from the dense model, 0 to 1.")] = 0.0,
    augment: Annotated[bool, typer.Option(help="Shift and flip training images.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    accelerator: Annotated[str, typer.Option(help="Where training runs: auto, cpu, cuda or mps.")] = "auto",
    channel_step: Annotated[int, typer.Option(help="Width step for size and MAC budgets.")] = 8,
    table_points: Annotated[int, typer.Option(help="Samples per channel dimension of a measured table.")] = 5,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Compress a model to a budget that its exported engine meets, measured on the target."""
    from hwprune.compression import Progress, compress, resumed_config

    settings = {name: value for name, value in locals().items() if name in _SETTINGS}
    if resume:
        chosen = resumed_config(output)
    else:
        from hwprune.compression import read_config

        chosen = read_config(_given(settings))
    run = compress(chosen, resume=resume, progress=Progress())
    from hwprune.report import render_text

    emit(run.result, as_json=json, text=f"{render_text(run.document)}\n{run.path / 'report.html'}")
    return 0 if run.budget_met in (None, True) else 1


_SETTINGS = frozenset(command.__annotations__) - {"json", "config", "resume", "return"}


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that were given, in the form the configuration takes."""
    given = {name: value for name, value in settings.items() if value is not None}
    if "input_shape" in given:
        given["input_shape"] = parse_shape(given["input_shape"])
    return given
