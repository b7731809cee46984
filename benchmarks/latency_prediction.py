"""How well latency tables predict networks that profiling never saw.

For each architecture and runtime: the table is measured in context (``hwprune profile``), and once more from layers
alone, the baseline. Then twenty prunings with random widths are cut, exported like any user's model, and timed end to
end in interleaved rounds beside the network that anchored the profiling. What they measure is brought to the speed
that the device had while it was profiled, by that anchor; the error without this correction is given as well. A
measurement is a median over all rounds; beside it stands the error against the fastest sixth of them, undisturbed.

    pip install --no-deps torchvision timm
    python benchmarks/latency_prediction.py --results RESULTS.json [--only resnet50:local-openvino ...]
    python benchmarks/latency_prediction.py --results RESULTS.json --report RESULT.md

Results are added one pair at a time, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hwprune
from hwprune import device_runner
from hwprune.deploy.export import exported_bytes
from hwprune.deploy.profiling import subject_of
from hwprune.errors import MissingLatencyError
from hwprune.latency import Bench, LatencyTable, NetworkProfiler, Subject, predict, probe_model, profile_alone
from hwprune.latency.observation import NETWORK, calmest
from hwprune.latency.sampling import allowed_widths
from hwprune.network import Network, cut, trace
from hwprune.targets import Target, load_target
from hwprune.targets.connection import Connection, Visit, connect

ARCHITECTURES = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small",
    "torchvision:efficientnet_b0", "torchvision:densenet121", "timm:vit_tiny_patch16_224",
)  # fmt: skip
TARGETS = ("local-onnxruntime", "local-openvino")
PRUNINGS = 20
SHAPE = (1, 3, 224, 224)
ALONE_POINTS = 3  # samples per channel dimension of a layer measured alone


def build(name: str) -> nn.Module:
    """A model of the zoo with random weights."""
    importable()
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        made: nn.Module = importlib.import_module("timm").create_model(model)
    else:
        made = getattr(importlib.import_module("torchvision.models"), model)()
    return made.eval()


def importable() -> None:
    """Its wheels are built for CUDA; beside a CPU build of torch two operators must be declared first."""
    if importlib.util.find_spec("torchvision") is None:
        raise SystemExit("pip install --no-deps torchvision timm")
    library: Any = getattr(torch.library, "Library")("torchvision", "FRAGMENT")  # noqa: B009 - untyped
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


_kept: list[Any] = []


def prunings(model: nn.Module, network: Network, example: torch.Tensor) -> list[tuple[dict[str, int], bytes]]:
    """Random widths, and the networks cut to them, exported."""
    rng, found = random.Random(20), []
    for _ in range(PRUNINGS):
        widths = {group.name: rng.choice(allowed_widths(group.channels, 16)) for group in network.cuttable}
        kept = {name: sorted(rng.sample(range(network.dense_widths[name]), width)) for name, width in widths.items()}
        found.append((widths, exported_bytes(cut(model, network.cuts(kept)), example)))
    return found


def measured(connection: Connection, name: str, model: bytes) -> dict[str, float]:
    """Time over the anchor's, undisturbed and in the median over all rounds, and the time itself in ms.

    Each is the median of three openings, because each opening is some per cent off. Undisturbed is what the table is
    about: the mean over the fastest sixth of the rounds.
    """
    openings = [f"{NETWORK} {index}" for index in range(3)]
    visit = Visit(id=name, models=dict.fromkeys(openings, model), rounds=100, burst=4, max_seconds=6.0)
    (reply,) = connection.run([visit])
    seen, anchor = [reply["candidates"][opening] for opening in openings], reply["candidates"]["anchor"]
    medians = [device_runner.ratio(reply, opening, "anchor", samples=1)["median"] for opening in openings]
    return {
        "ratio": float(np.median([calmest(one) for one in seen])) / calmest(anchor),
        "ratio_median": float(np.median(medians)),
        "raw_ms": float(np.median([one["p50_ms"] for one in seen])),
    }


def grid_measurements(table: LatencyTable) -> int:
    """How many measurements a full grid over the channel counts of every kind of layer takes."""
    grids: dict[str, int] = {}
    for entry in table.entries:
        size = math.prod(math.ceil(sizes[-1] / table.channel_step) for sizes in entry.sizes)
        grids[entry.key.alone] = max(size, grids.get(entry.key.alone, 1))
    return sum(grids.values())


def compare(name: str, target: Target, cuts: list[tuple[dict[str, int], bytes]] | None) -> dict[str, Any]:
    """One architecture on one target."""
    model, example = build(name), torch.zeros(SHAPE)
    network = trace(model, example, verify=False)
    cuts = cuts if cuts is not None else prunings(model, network, example)
    begin = time.perf_counter()
    network = trace(model, example)
    subject = subject_of(model, example, network, target)
    with connect(target, null=subject.null, anchor=subject.anchor) as connection:
        table = NetworkProfiler(subject, target).live(connection, progress=lambda *_: None)
        profiling_s = time.perf_counter() - begin
        print(f"{name} {target.name}: profiled in {profiling_s:.0f} s, {table.held_out}", flush=True)
        rows = []
        for index, (widths, exported) in enumerate(cuts):
            row = measured(connection, f"pruning-{index}", exported)
            rows.append({**row, "predicted_ms": _predicted(network, table, subject, widths)})
    begin = time.perf_counter()
    with connect(target, null=subject.null, anchor=probe_model(target)) as connection:
        dense = subject.build(subject.channels)
        try:
            alone = profile_alone(network.layers, Bench(target, connection), points=ALONE_POINTS, dense=dense)
        except MissingLatencyError as error:
            print(f"no baseline of layers alone: {error}", flush=True)
            alone = None
    alone_s = time.perf_counter() - begin
    for (widths, _), row in zip(cuts, rows, strict=True):
        if alone is not None:
            scaled = _predicted(network, alone, subject, widths)
            row |= {"alone_scaled_ms": scaled, "alone_sum_ms": scaled / alone.scale}
        row["measured_ms"] = row["ratio"] * table.protocol["anchor_ms"]
        row["median_ms"] = row["ratio_median"] * table.protocol["anchor_ms"]
    return {
        "model": name,
        "target": target.name,
        "profiling_s": profiling_s,
        "alone_s": alone_s,
        "networks": table.protocol["networks"],
        "grid": grid_measurements(table),
        "channel_step": table.channel_step,
        "held_out": str(table.held_out),
        "anchor_drift": table.protocol["anchor_drift"],
        "rows": rows,
        "device": table.device,
        "hwprune": hwprune.__version__,
    }


def _predicted(network: Network, table: LatencyTable, subject: Subject, widths: dict[str, int]) -> float:
    return predict(network.layers, table, {**subject.frozen, **widths}).latency_ms


def errors(result: dict[str, Any], predicted: str, actual: str = "measured_ms") -> str:
    """Median, 90th percentile and worst relative error, in per cent; "cannot" where a layer has no form alone."""
    if predicted not in result["rows"][0]:
        return "cannot"
    each = [abs(row[predicted] / row[actual] - 1) * 100 for row in result["rows"]]
    return " / ".join(f"{value:.1f}" for value in np.quantile(each, (0.5, 0.9, 1.0)))


def report(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| model | runtime | in context | of undisturbed rounds | without drift correction | alone, sum "
        "| alone, scaled to the dense network "
        "| latencies (ms) | profiling | networks | full grid / networks |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        times = [row["measured_ms"] for row in one["rows"]]
        lines.append(
            f"| {one['model'].partition(':')[2]} | {one['target'].removeprefix('local-')} "
            f"| **{errors(one, 'predicted_ms', 'median_ms')}** | {errors(one, 'predicted_ms')} "
            f"| {errors(one, 'predicted_ms', 'raw_ms')} "
            f"| {errors(one, 'alone_sum_ms')} | {errors(one, 'alone_scaled_ms')} "
            f"| {min(times):.3g} – {max(times):.3g} | {one['profiling_s']:.0f} s | {one['networks']} "
            f"| {one['grid'] / one['networks']:.0f}x |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="pairs of architecture and target, such as resnet50:local-openvino")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    if options.report:
        options.report.write_text(report(results) + "\n")
        return
    for name in ARCHITECTURES:
        cuts: list[tuple[dict[str, int], bytes]] | None = None
        for target in TARGETS:
            pair = f"{name.partition(':')[2]}:{target}"
            done = any((one["model"], one["target"]) == (name, target) for one in results)
            if done or (options.only and pair not in options.only):
                continue
            if cuts is None:
                model, example = build(name), torch.zeros(SHAPE)
                cuts = prunings(model, trace(model, example, verify=False), example)
            results.append(compare(name, load_target(target), cuts))
            options.results.write_text(json.dumps(results, indent=1))
            print(report(results[-1:]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
