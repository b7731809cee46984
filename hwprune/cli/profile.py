"""``hwprune profile``: measure a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwprune.cli.options import (
    Batch,
    Config,
    HeadSizes,
    InputShape,
    Json,
    Model,
    Precision,
    Seed,
    TargetName,
    Threads,
    inputs_in,
)
from hwprune.cli.output import emit
from hwprune.errors import InputError

NAME = "profile"


def command(
    model: Model,
    input_shape: InputShape,
    output: Annotated[Path | None, typer.Option(help="The table to write (.json).")] = None,
    target: TargetName = "local-onnxruntime",
    threads: Threads = None,
    precision: Precision = None,
    batch: Batch = None,
    method: Annotated[
        Literal["in-context", "alone"],
        typer.Option(help="From whole networks, or every layer by itself."),
    ] = "in-context",
    points: Annotated[int, typer.Option(help="Method alone: samples per channel dimension of a layer.", min=2)] = 5,
    pack: Annotated[
        Path | None, typer.Option(help="Write a kit (.tar) for a device that cannot be reached, and measure nothing.")
    ] = None,
    unpack: Annotated[
        Path | None, typer.Option(help="What a kit's worker wrote on the device; the rest as it was for --pack.")
    ] = None,
    head_sizes: HeadSizes = False,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Measure a latency table that covers a model and everything it can be cut to."""
    from hwprune.cli.checks import check_output_file
    from hwprune.compression import Progress
    from hwprune.targets import load_target
    from hwprune.verbs import pack_profile, profile

    shape = inputs_in(input_shape)
    chosen = load_target(target, threads=threads, precision=precision, batch=batch)
    if pack is not None:
        _check_alone(output, unpack)
        check_output_file(pack)
        kit = pack_profile(model, input_shape=shape, target=chosen, path=pack, head_sizes=head_sizes, seed=seed)
        emit(kit, as_json=json, text=f"{pack}: {kit['visits']} visits for {chosen.name}; its README says how to run it")
        return 0
    if output is None:
        raise InputError("no table to write", hint="say where with --output TABLE.json")
    check_output_file(output)
    progress = Progress()
    table = profile(
        model,
        input_shape=shape,
        target=chosen,
        method=method,
        points=points,
        unpack=unpack,
        head_sizes=head_sizes,
        seed=seed,
        progress=progress,
    )
    table.save(output)
    document = {
        "table": str(output),
        "target": table.target.to_dict(),
        "entries": len(table.entries),
        "channel_step": table.channel_step,
        "scale": table.scale,
        "networks": table.protocol["networks"],
        "held_out": table.held_out and {"networks": len(table.held_out.measured_ms), "p90": table.held_out.p90},
    }
    text = f"{output}: {len(table.entries)} kinds of layer on {table.target.name}, channel step {table.channel_step}"
    emit(document, as_json=json, text=f"{text}; {table.held_out}" if table.held_out else text)
    return 0


def _check_alone(output: Path | None, unpack: Path | None) -> None:
    if output is not None or unpack is not None:
        raise InputError(
            "--pack measures nothing, so there is no table to write yet",
            hint="leave out --output and --unpack; give them when the results are back",
        )
