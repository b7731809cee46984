"""``hwprune predict``: what a model would cost on a device, from its table alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import Config, InputShape, Json, Model, Seed, parse_shape
from hwprune.cli.output import emit

NAME = "predict"


def command(
    model: Model,
    input_shape: InputShape,
    table: Annotated[Path, typer.Option(help="Latency table of the device.")],
    plan: Annotated[Path | None, typer.Option(help="plan.json: predict the network cut to it.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.")] = False,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Predict a model's latency from a table."""
    shape = parse_shape(input_shape)
    from hwprune.latency import LatencyTable
    from hwprune.verbs import predict

    costs = LatencyTable.load(table)
    prediction = predict(model, input_shape=shape, table=costs, plan=plan)
    rows = [
        {"name": layer.name, "latency_ms": layer.latency_ms, "source": layer.source} for layer in prediction.per_layer
    ]
    of = costs.target
    document = {"predicted_latency_ms": prediction.latency_ms, "target": of.to_dict(), "layers": rows}
    text = (
        f"predicted {prediction.latency_ms:.4g} ms "
        f"({of.name}, {of.precision}, batch {of.batch}, threads {of.threads}; not measured)"
    )
    if layers:
        text += "\n" + "\n".join(f"{row['latency_ms']:10.4f} ms  {row['name']}  ({row['source']})" for row in rows)
    emit(document, as_json=json, text=text)
    return 0
