"""Accuracy of what is pruned and grown back, on CIFAR-10, at equal measured latency and at equal sparsity.

Every run starts from the same trained weights and is trained for as many epochs as any other, with as many images; the
test set is read once per run, after it. The parts:

* ``start``: the weights themselves, from scratch, where there are none.
* ``channels``: ``hwprune compress`` to a latency, measured on the exported engine, which is also what is tested:
  uniform, HALP, HALP with IEE, the joint solver without and with IEE, and both where blocks may be removed.
* ``ablation``: what HALP with IEE gets at 0.5x with other lengths of its stages, explored shares, criteria, and rates.
* ``weights``: GMP, RigL, SET, GraNet, IEE and bidirectional pruning-regrowth to a share of zeros, in a loop of its own.
* ``recovery``: the hyperspherical network with the separation penalty, pruned at once after the training; beside it the
  same without penalty, each without recovery, with the mean of what was pruned, and with batch norms recalibrated.

    CIFAR10=FOLDER CIFAR10_ROWS=10000 python benchmarks/regrow/cifar10.py --part weights --model resnet20 \
        --weights FILE.safetensors --results RESULTS.json [--epochs 4] [--seeds 0,1,2] [--levels 0.9,0.95] \
        [--methods gmp,rigl] [--table TABLE.json] [--report RESULT.md]

Results are added one at a time, so that a run that was stopped goes on where it was. Training runs in bfloat16 where
autocast allows it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import he_resnet  # type: ignore[import-not-found]

from hwprune.compression import Progress, compress, read_config
from hwprune.regrow import (
    GMP,
    IEE,
    SET,
    BidirectionalPruner,
    BidirectionalSchedule,
    DenseReference,
    GraNet,
    RigL,
    Rule,
    SeparationPenalty,
    SparseMasks,
    SparsePruner,
    hyperspherical,
    plain,
    prune_and_recover,
)
from hwprune.training import ClassificationTask, Data, recalibrate_batchnorm

BATCH, RATE, DECAY, CYCLES = 64, 0.02, 1e-4, 5
CHANNELS: dict[str, dict[str, Any]] = {
    "uniform": {"method": "uniform"},
    "halp": {"method": "halp", "prune_steps": 30},
    "halp + iee": {"method": "halp", "regrow": "iee"},
    "joint": {"method": "joint"},
    "joint + iee": {"method": "joint", "regrow": "iee"},
    "joint, blocks": {"method": "joint", "remove_blocks": True},
    "joint, blocks + iee": {"method": "joint", "remove_blocks": True, "regrow": "iee"},
}
_IEE: dict[str, Any] = {"method": "halp", "regrow": "iee"}
ABLATION: dict[str, dict[str, Any]] = {
    "halp + iee": _IEE,
    "explores 15 %": _IEE | {"explore_fraction": 0.15},
    "explores 50 %": _IEE | {"explore_fraction": 0.5},
    "2 cycles": _IEE | {"prune_steps": 2},
    "10 cycles": _IEE | {"prune_steps": 10},
    "criterion magnitude": _IEE | {"criterion": "magnitude-l2"},
    "halp, criterion magnitude": {"method": "halp", "prune_steps": 30, "criterion": "magnitude-l2"},
    "rate 0.005": _IEE | {"learning_rate": 0.005},
    "halp, rate 0.005": {"method": "halp", "prune_steps": 30, "learning_rate": 0.005},
    "rate 0.05": _IEE | {"learning_rate": 0.05},
    "halp, rate 0.05": {"method": "halp", "prune_steps": 30, "learning_rate": 0.05},
}
BIDIRECTIONAL = {
    "bidirectional": 0.8,
    "bidirectional (from a third)": 1 / 3,
}  # so much of what stays is left before it grows
WEIGHTS = ("dense", "gmp", "granet", "granet (sparse start)", "rigl", "set", "iee", *BIDIRECTIONAL)
RECOVERY = ("penalty", "no penalty")
LEVELS = {"start": "1", "channels": "0.5,0.3", "ablation": "0.5", "weights": "0.9,0.95,0.98", "recovery": "0.5,0.7"}


def compressed(options: argparse.Namespace, method: str, budget: float, seed: int) -> dict[str, Any]:
    """Channels cut to a latency: half of the epochs prune, half fine-tune."""
    factory = f"{he_resnet.__file__}:{options.model}"
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": factory, "weights": options.weights, "data": f"{he_resnet.__file__}:cifar10",
            "input_shape": (1, 3, 32, 32), "output": Path(folder) / "run", "target": options.target,
            "table": options.table, "latency": f"{budget:g}x", "prune_steps": CYCLES,
            "prune_epochs": options.epochs // 2, "epochs": options.epochs - options.epochs // 2, "learning_rate": RATE,
            "batch_size": BATCH, "weight_decay": DECAY, "accelerator": "cpu", "training_precision": "bf16-mixed",
            "seed": seed, **{**CHANNELS, **ABLATION}[method],
        }  # fmt: skip
        run = compress(read_config(settings), progress=Progress())
        accuracy = engine_accuracy(run.path / "model.onnx")
    keys = ("latency_ratio", "macs", "baseline_macs", "parameters", "budget_met")
    return {"accuracy": accuracy, "validation": run.result["accuracy"], **{key: run.result[key] for key in keys}}


def engine_accuracy(path: Path) -> float:
    """Of an engine of batch 1, on the test set."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values, labels = he_resnet.test_images()
    name = session.get_inputs()[0].name
    found = [int(session.run(None, {name: image[None].numpy()})[0].argmax()) for image in values]
    return float(np.mean(np.array(found) == labels.numpy()))


class Training:
    """Images in memory, SGD with momentum, a cosine."""

    def __init__(self, options: argparse.Namespace, seed: int, *, rate: float = RATE) -> None:
        torch.manual_seed(seed)
        self.images, self.labels = he_resnet.training_images()
        self.model: nn.Module = getattr(he_resnet, options.model)()
        if options.weights.exists():
            self.model.load_state_dict(load_file(options.weights))
        self.epochs, self.rate = options.epochs, rate
        self.steps = self.epochs * (len(self.labels) // BATCH)
        self.optimize(self.model)

    def optimize(self, model: nn.Module) -> None:
        """Go on with this model."""
        self.model = model.train()
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=self.rate, momentum=0.9, nesterov=True, weight_decay=DECAY
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Whole batches of all epochs."""
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(self.labels)).split(BATCH):  # type: ignore[no-untyped-call]
                if len(chosen) == BATCH:
                    yield he_resnet.shifted(self.images[chosen]), self.labels[chosen]

    def run(self, after: Callable[[], None], penalty: Callable[[], Tensor] | None = None) -> None:
        """Train; calls ``after`` when the optimizer has made a step."""
        for step, (images, labels) in enumerate(self.batches()):
            self.optimizer.param_groups[0]["lr"] = self.rate / 2 * (1 + math.cos(math.pi * step / self.steps))
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(self.model(images), labels)
            (loss + penalty() if penalty else loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            after()
            self.optimizer.zero_grad()

    def accuracy(self, model: nn.Module | None = None) -> float:
        """On the test set."""
        model = (model or self.model).eval()
        values, labels = he_resnet.test_images()
        with torch.no_grad():
            answers = torch.cat([model(part).argmax(1) for part in values.split(500)])
        return float((answers == labels).float().mean())


def sparse(options: argparse.Namespace, method: str, sparsity: float, seed: int) -> dict[str, Any]:
    """Zeros while training."""
    training = Training(options, seed)
    if method == "dense":
        training.run(lambda: None)
        return {"accuracy": training.accuracy(), "sparsity": 0.0}
    pruner: SparsePruner | BidirectionalPruner
    if method in BIDIRECTIONAL:
        pruner = bidirectional(training, 1 - sparsity, BIDIRECTIONAL[method])
    else:
        rule = rule_of(method, 1 - sparsity, training.steps)
        pruner = SparsePruner(training.model, training.optimizer, rule, seed=seed)
    training.run(pruner.step)
    zeros = 1 - sum(pruner.masks.nonzeros().values()) / pruner.masks.total
    return {"accuracy": training.accuracy(), "sparsity": zeros, "density": pruner.masks.densities}


def rule_of(method: str, density: float, steps: int) -> Rule:
    """Each of them with as many updates as it can use in a short training, and masks that stay for its last quarter."""
    settings: dict[str, Any] = {"density": density, "steps": steps, "interval": max(1, steps // 40)}
    if method == "gmp":
        return GMP(**settings)
    if method == "granet":
        return GraNet(**settings)
    settings["initial"] = "magnitude"
    if method == "granet (sparse start)":
        return GraNet(**settings, initial_density=0.5)
    if method in ("rigl", "set"):
        return {"rigl": RigL, "set": SET}[method](**settings)
    stage = max(1, int(0.75 * steps) // (3 * CYCLES))
    return IEE(
        density=density, steps=steps, initial="magnitude",
        importance_steps=stage, accuracy_steps=stage, exploration_steps=stage,
    )  # fmt: skip


def bidirectional(training: Training, density: float, left: float) -> BidirectionalPruner:
    """Prune to a share of what is allowed, train, grow back."""
    reference, model = DenseReference(training.model), training.model.eval()
    for begin in range(0, 2048, BATCH):
        images, labels = training.images[begin : begin + BATCH], training.labels[begin : begin + BATCH]
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        reference.update(model)
        model.zero_grad()
    model.train()
    total = SparseMasks(model).total
    schedule = BidirectionalSchedule(density=density * left, prune_steps=training.steps // 2)
    return BidirectionalPruner(model, training.optimizer, reference, budget=round(density * total), schedule=schedule)


def recovered(options: argparse.Namespace, method: str, sparsity: float, seed: int) -> dict[str, Any]:
    """Accuracies after one training and one pruning, by what was done about it."""
    training = Training(options, seed)
    training.optimize(hyperspherical(training.model, classifier="linear"))
    penalty = SeparationPenalty(
        training.model,
        density=1 - sparsity,
        strength=options.strength,
        ramp=training.steps // 2,
    )
    with_penalty = method == "penalty"
    training.run(penalty.step, penalty.loss if with_penalty else None)
    found: dict[str, Any] = {"dense": training.accuracy()}
    data = Data(train=(kept := TensorDataset(training.images, training.labels)), validation=kept)
    for means in ("none", "layer", "filter"):
        model = plain(training.model)
        masks = SparseMasks(model)
        masks.keep_largest_of_each({name: round((1 - sparsity) * mask.numel()) for name, mask in masks.active.items()})
        prune_and_recover(masks, means)
        found[means] = training.accuracy(model)
        recalibrate_batchnorm(model, data, ClassificationTask())
        found[f"{means}, recalibrated"] = training.accuracy(model)
    return {"accuracy": found["filter"], **found}


def trained(options: argparse.Namespace, method: str, level: float, seed: int) -> dict[str, Any]:
    """The weights that the other parts start from, made from scratch and written."""
    training = Training(options, seed, rate=0.1)
    training.run(lambda: None)
    save_file(training.model.state_dict(), options.weights)
    return {"accuracy": training.accuracy()}


RUNS = {"start": trained, "channels": compressed, "ablation": compressed, "weights": sparse, "recovery": recovered}
METHODS = {
    "start": ("from scratch",),
    "channels": tuple(CHANNELS),
    "ablation": tuple(ABLATION),
    "weights": WEIGHTS,
    "recovery": RECOVERY,
}


def spread(values: list[float]) -> str:
    """Mean, and the least and the most of several."""
    percent = [100 * value for value in values]
    return f"**{statistics.mean(percent):.2f}** ({min(percent):.2f} – {max(percent):.2f})"


def report(results: list[dict[str, Any]]) -> str:
    """Markdown tables."""
    lines: list[str] = []
    for model in dict.fromkeys(one["model"] for one in results):
        for part in RUNS:
            chosen = [one for one in results if (one["model"], one["part"]) == (model, part)]
            if chosen:
                lines += ["", f"## {model}, {part}", "", *TABLES[part](chosen)]
    return "\n".join(lines)


def grouped(results: list[dict[str, Any]]) -> Iterator[tuple[float, str, list[dict[str, Any]]]]:
    for level in dict.fromkeys(
        sorted((one["level"] for one in results), reverse=results[0]["part"] in ("channels", "ablation"))
    ):
        for method in METHODS[results[0]["part"]]:
            same = [one for one in results if (one["level"], one["method"]) == (level, method)]
            if same:
                yield level, method, same


def channel_table(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| budget | method | test accuracy, mean (least – most) | latency | MACs | inside | seeds | minutes |"
    yield "|---|---|---|---|---|---|---|---|"
    for level, method, same in grouped(results):
        ratios = [one["latency_ratio"][0] for one in same]
        macs = statistics.mean(one["macs"] / one["baseline_macs"] for one in same)
        yield (
            f"| {level:g}x | {method} | {spread([one['accuracy'] for one in same])} | {min(ratios):.3f}x – "
            f"{max(ratios):.3f}x | {macs:.2f}x | {sum(bool(one['budget_met']) for one in same)} of {len(same)} "
            f"| {len(same)} | {statistics.mean(one['minutes'] for one in same):.1f} |"
        )


def weight_table(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| sparsity | method | test accuracy, mean (least – most) | zeros | seeds | minutes |"
    yield "|---|---|---|---|---|---|"
    for level, method, same in grouped(results):
        yield (
            f"| {level:.0%} | {method} | {spread([one['accuracy'] for one in same])} "
            f"| {statistics.mean(one.get('sparsity', 0.0) for one in same):.2%} | {len(same)} "
            f"| {statistics.mean(one['minutes'] for one in same):.1f} |"
        )


def recovery_table(results: list[dict[str, Any]]) -> Iterator[str]:
    ways = [f"{means}{how}" for means in ("none", "layer", "filter") for how in ("", ", recalibrated")]
    yield f"| sparsity | training | before pruning | {' | '.join(ways)} | seeds |"
    yield "|---" * (4 + len(ways)) + "|"
    for level, method, same in grouped(results):
        cells = [spread([one[way] for one in same]) for way in ("dense", *ways)]
        yield f"| {level:.0%} | {method} | {' | '.join(cells)} | {len(same)} |"


TABLES = {
    "start": weight_table,
    "channels": channel_table,
    "ablation": channel_table,
    "weights": weight_table,
    "recovery": recovery_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=RUNS)
    parser.add_argument("--model", default="resnet20", choices=("resnet20", "resnet56", "wide8"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--table")
    parser.add_argument("--target", default="local-onnxruntime")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--strength", type=float, default=1.0, help="of the separation penalty")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--levels")
    parser.add_argument("--methods")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    if options.part:
        levels = [float(level) for level in (options.levels or LEVELS[options.part]).split(",")]
        methods = (
            options.methods.split(";" if ";" in options.methods else ",") if options.methods else METHODS[options.part]
        )
        for seed in map(int, options.seeds.split(",")):
            for level, method in ((level, method) for level in levels for method in methods):
                key = {"part": options.part, "model": options.model, "method": method, "level": level, "seed": seed}
                if any(one | key == one for one in results):
                    continue
                begin = time.perf_counter()
                found = RUNS[options.part](options, method, level, seed)
                results.append({**key, **found, "minutes": (time.perf_counter() - begin) / 60})
                options.results.write_text(json.dumps(results, indent=1))
                print(json.dumps({k: v for k, v in results[-1].items() if k != "density"}), flush=True)
    if options.report:
        options.report.write_text(report(results) + "\n")


if __name__ == "__main__":
    main()
