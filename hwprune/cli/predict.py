"""``hwprune predict``: what a model would cost on a device, from its table alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.cli.options import Config, InputShape, Json, Model, Seed, inputs_in
from hwprune.cli.output import emit

NAME = "predict"


def command(
    model: Model,
    input_shape: InputShape,
    table: Annotated[Path, typer.Option(help="Latency table of the device.")],
    plan: Annotated[Path | None, typer.Option(help="plan.json: predict the network cut to it.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.")] = False,
    page: Annotated[Path | None, typer.Option(help="HTML page to write: where the time goes, and the table.")] = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Predict a model's latency from a table, and work out its parameters, weights and memory."""
    shape = inputs_in(input_shape)
    from hwprune.cli.checks import check_output_file
    from hwprune.latency import LatencyTable
    from hwprune.verbs import predict_all

    if page is not None:
        check_output_file(page)
    costs = LatencyTable.load(table)
    prediction, taken = predict_all(model, input_shape=shape, table=costs, plan=plan)
    rows = [
        {**asdict(layer), "latency_ms": timed.latency_ms, "source": timed.source}
        for layer, timed in zip(taken.layers, prediction.per_layer, strict=True)
    ]
    of = costs.target
    interval = prediction.interval_ms
    document: dict[str, Any] = {
        "predicted_latency_ms": prediction.latency_ms,
        "interval_ms": interval,
        "overhead_ms": prediction.overhead_ms,
        "parameters": taken.parameters,
        "size_bytes": taken.weight_bytes,
        "peak_memory_bytes": taken.memory_bytes,
        "target": of.to_dict(),
        "layers": rows,
    }
    spread = f", {interval[0]:.4g} to {interval[1]:.4g} in nine of ten cases" if interval else ""
    text = (
        f"predicted {prediction.latency_ms:.4g} ms{spread} "
        f"({of.name}, {of.precision}, batch {of.batch}, threads {of.threads}; not measured)\n"
        f"{taken.parameters} parameters, {taken.weight_bytes} bytes of weights, {taken.memory_bytes} bytes of memory "
        f"at its peak (weights, and {taken.activation_bytes} of activations)"
    )
    if layers:
        text += "\n        ms   parameters  weight bytes   bytes held  layer\n" + "\n".join(map(_line, rows))
    if page is not None:
        from hwprune.files import write_atomic
        from hwprune.report import table_page

        write_atomic(page, table_page(costs, title=f"{model} on {of.name}", prediction=prediction))
        document["page"] = str(page)
    emit(document, as_json=json, text=text)
    return 0


def _line(row: dict[str, Any]) -> str:
    held = "-" if row["held_bytes"] is None else str(row["held_bytes"])
    counts = f"{row['parameters']:11d}  {row['weight_bytes']:12d}  {held:>11}"
    return f"{row['latency_ms']:10.4f}  {counts}  {row['name']}  ({row['source']})"
