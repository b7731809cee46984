"""``hwprune profile``: measure a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import (
    Batch,
    Config,
    InputShape,
    Json,
    Model,
    Precision,
    Seed,
    TargetName,
    Threads,
    parse_shape,
)
from hwprune.cli.output import emit

NAME = "profile"


def command(
    model: Model,
    input_shape: InputShape,
    output: Annotated[Path, typer.Option(help="The table to write (.json).")],
    target: TargetName = "local-onnxruntime",
    threads: Threads = None,
    precision: Precision = None,
    batch: Batch = None,
    points: Annotated[int, typer.Option(help="Samples per channel dimension of a layer.", min=2)] = 5,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Measure every layer of a model on a target, over channel counts, and write the table."""
    from hwprune.cli.checks import check_output_file
    from hwprune.compression import Progress
    from hwprune.targets import load_target
    from hwprune.verbs import profile

    check_output_file(output)
    shape = parse_shape(input_shape)
    chosen = load_target(target, threads=threads, precision=precision, batch=batch)
    table = profile(model, input_shape=shape, target=chosen, points=points, seed=seed, progress=Progress())
    table.save(output)
    document = {
        "table": str(output),
        "target": table.target.to_dict(),
        "entries": len(table.entries),
        "channel_step": table.channel_step,
        "scale": table.scale,
    }
    text = (
        f"{output}: {len(table.entries)} layers of {table.target.name}, channel step {table.channel_step}, "
        f"the network runs in {table.scale:.3f}x of the sum of its layers"
    )
    emit(document, as_json=json, text=text)
    return 0
