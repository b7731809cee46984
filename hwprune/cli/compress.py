"""``hwprune compress``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprune.cli.options import (
    INPUTS,
    Batch,
    CalibrationSamples,
    Config,
    HeadSizes,
    Json,
    MaxDegradation,
    PercentMaxDegradation,
    Precision,
    Seed,
    TargetName,
    Threads,
    Weights,
    given,
    inputs_in,
)
from hwprune.cli.output import emit
from hwprune.errors import InputError

if TYPE_CHECKING:
    from hwprune.compression import CompressConfig, Sweep

NAME = "compress"


def command(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="file.py:factory, package:factory, zoo:NAME, timm:NAME, torchvision:NAME, transformers:FOLDER."
        ),
    ] = None,
    input_shape: Annotated[list[str] | None, typer.Option(help=INPUTS)] = None,
    data: Annotated[
        str | None, typer.Option(help="ImageFolder directory, .parquet, .npz, digits, or file.py:factory.")
    ] = None,
    weights: Weights = None,
    task: Annotated[Path | None, typer.Option(help="File with loss(model, batch) and evaluate(predict).")] = None,
    target: TargetName = "local-onnxruntime",
    threads: Threads = None,
    precision: Precision = None,
    batch: Batch = None,
    calibration_samples: CalibrationSamples = 128,
    max_degradation: MaxDegradation = None,
    percent_max_degradation: PercentMaxDegradation = None,
    table: Annotated[Path | None, typer.Option(help="Latency table of the target; measured now if absent.")] = None,
    latency: Annotated[str | None, typer.Option(help="Latency budget: 0.5x or 8ms; several: 0.8x,0.6x.")] = None,
    size: Annotated[
        str | None, typer.Option(help="File size budget: 0.5x or 2MB; with --sparsify met by zeros, not by cuts.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory budget: 0.5x or 2MB, of weights and the most activations held at once."),
    ] = None,
    weights_in_flash: Annotated[
        bool, typer.Option("--weights-in-flash", help="Memory holds activations alone (microcontrollers).")
    ] = False,
    macs: Annotated[str | None, typer.Option(help="Multiply-accumulate budget: 0.5x or 100M.")] = None,
    head_sizes: HeadSizes = False,
    method: Annotated[str, typer.Option(help="joint; baselines halp, uniform, global; each with -oneshot.")] = "joint",
    remove_blocks: Annotated[
        bool, typer.Option("--remove-blocks", help="Whole residual blocks may be removed, too (method joint).")
    ] = False,
    regrow: Annotated[str, typer.Option(help="iee: try out what was pruned, and grow the best of it back.")] = "none",
    explore_fraction: Annotated[float, typer.Option(help="Share of the budget that iee grows back at first.")] = 0.3,
    sparsify: Annotated[
        str,
        typer.Option(
            help="Make single weights zero while fine-tuning: gmp, granet, rigl, set, srigl, iee, nm, bidirectional, "
            "recoverable. Smaller files; dense runtimes are not faster for it."
        ),
    ] = "none",
    sparsity: Annotated[str | None, typer.Option(help="Share of zeros: 0.9 or 90%.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Of nm: 2:4 keeps two of four inputs in a row.")] = None,
    initial_density: Annotated[
        float | None, typer.Option(help="Of granet: share of weights it starts with; all if absent.")
    ] = None,
    stay_dense: Annotated[
        list[str] | None,
        typer.Option(help="Weights or layers without zeros, such as *pos_embed or fc; several: once for each."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Form of the sparse file: gap8, bitmask, onnx, dense; gap8-int8-xz and the like.")
    ] = None,
    criterion: Annotated[str, typer.Option(help="What a channel is worth.")] = "taylor-bn",
    prune_steps: Annotated[int, typer.Option(help="Prune steps while training.")] = 5,
    prune_epochs: Annotated[int, typer.Option(help="Epochs over which they are spread.")] = 1,
    saliency_batches: Annotated[int, typer.Option(help="Batches that -oneshot scores channels on.")] = 32,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning after the cut.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Training batch size, of all processes of torchrun together.")] = 64,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing of the classification loss.")] = 0.0,
    distill: Annotated[float, typer.Option(help="Weight of distillation from the dense model, 0 to 1.")] = 0.0,
    augment: Annotated[bool, typer.Option(help="Shift and flip training images.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    accelerator: Annotated[str, typer.Option(help="Where training runs: auto, cpu, cuda or mps.")] = "auto",
    training_precision: Annotated[str, typer.Option(help="Of training: 32-true or bf16-mixed.")] = "32-true",
    channel_step: Annotated[
        int, typer.Option(help="Width step without a latency table (memory: at least the runtime's block).")
    ] = 8,
    table_method: Annotated[
        str, typer.Option(help="Measure the table in-context, or every layer alone.")
    ] = "in-context",
    table_points: Annotated[int, typer.Option(help="Method alone: samples per channel dimension of a layer.")] = 5,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Compress a model to a budget that its exported engine meets, measured on the target."""
    settings = {name: value for name, value in locals().items() if name in _SETTINGS and value not in (None, [])}
    if input_shape:
        settings["input_shape"] = inputs_in(input_shape)
    from hwprune.training import launched

    with launched():
        return _compressed(settings, given(context), resume=resume, json=json)


def _compressed(settings: dict[str, Any], given: frozenset[str], *, resume: bool, json: bool) -> int:
    from hwprune.compression import Progress, Sweep, compress, read_config, resumed_config
    from hwprune.training import processes

    output, asked = settings["output"], {name: settings[name] for name in given & settings.keys()}
    sweep = processes().from_first(lambda: Sweep.load(output)) if resume else Sweep.of(settings)
    if sweep is not None:
        if resume:
            _refuse_changes(sweep.config.model_copy(update={sweep.budget: ",".join(sweep.values)}), asked)
        return _swept(sweep, resume=resume, json=json)
    if resume:
        chosen = resumed_config(output)
        _refuse_changes(chosen, asked)
    else:
        chosen = read_config(settings)
    run = compress(chosen, resume=resume, progress=Progress())
    from hwprune.report import render_text

    if processes().first:
        emit(run.result, as_json=json, text=f"{render_text(run.document)}\n{run.path / 'report.html'}")
    return 0 if run.kept_promises else 1


def _swept(sweep: Sweep, *, resume: bool, json: bool) -> int:
    """Several budgets: all runs, and a page about them."""
    from hwprune.compression import Progress
    from hwprune.files import write_atomic
    from hwprune.report import render_text, sweep_page
    from hwprune.training import processes

    runs, page = sweep.run(resume=resume, progress=Progress()), sweep.folder / "frontier.html"
    if processes().first:
        write_atomic(page, sweep_page([run.document for run in runs], [run.path for run in runs]))
        text = "\n\n".join(render_text(run.document) for run in runs)
        emit({"runs": [run.result for run in runs], "page": str(page)}, as_json=json, text=f"{text}\n{page}")
    return 0 if all(run.kept_promises for run in runs) else 1


_SETTINGS = frozenset(command.__annotations__) - {"context", "json", "config", "resume", "return"}


def _refuse_changes(recorded: CompressConfig, asked: dict[str, Any]) -> None:
    """A resumed run takes all settings from its folder; what is repeated has to agree."""
    differing = [
        f"--{name.replace('_', '-')} {getattr(recorded, name)}, not {value}"
        for name, value in sorted(asked.items())
        if name != "output" and _located(value) != _located(getattr(recorded, name))
    ]
    if differing:
        raise InputError(
            f"the run in {recorded.output} was started with {'; '.join(differing)}",
            hint="leave these out to resume it, or start another run in a new --output",
        )


def _located(value: Any) -> Any:
    return value.resolve() if isinstance(value, Path) else value
