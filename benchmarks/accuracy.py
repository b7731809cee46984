"""Accuracy at equal measured latency: the joint solver, HALP's knapsack, uniform and global pruning, Torch-Pruning.

Every method starts from the same weights, prunes to the same measured latency and is fine-tuned for as many epochs as
any other; the latency is that of the exported engine against the dense one, in interleaved rounds. The first four are
``hwprune compress --method …``. Torch-Pruning prunes the whole network by one threshold of its group Taylor importance
at a ratio that is searched for until the engine measures inside the budget's window.

    python benchmarks/accuracy.py --model FILE.py:factory --data FILE.py:factory --weights W --pretrain 8 \
        --input-shape 1,3,32,32 --epochs 3 --results RESULTS.json [--table T] [--budgets 0.5,0.3] [--seeds 0,1,2] \
        [--methods joint,halp]

The weights are trained first if there is no such file. Without a table (``hwprune profile``) every run measures its
own. The split of the data must not depend on a run's seed, or runs would be judged by images that the weights were
trained on (``benchmarks/models/fixed_splits.py``).

Results are added one at a time, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import nn

from hwprune.compression import CompressConfig, Progress, compress, read_config
from hwprune.deploy import export_onnx, measure_pair
from hwprune.network import load_model, load_weights
from hwprune.targets import load_target
from hwprune.training import (
    ClassificationTask,
    Hooks,
    TrainConfig,
    evaluate_model,
    load_data,
    recalibrate_batchnorm,
    save_weights,
    train,
    train_batches,
)

METHODS = ("joint", "halp", "uniform", "global", "torch-pruning")
WINDOW = (0.95, 1.0)
STEPS = {"halp": 30}  # prune steps of methods that were made for more than the default
LOOKS = 10  # at most, for Torch-Pruning's ratio


def config_of(options: argparse.Namespace, method: str, budget: float, seed: int, output: Path) -> CompressConfig:
    settings: dict[str, Any] = {
        "model": options.model, "weights": options.weights, "data": options.data, "table": options.table,
        "input_shape": tuple(map(int, options.input_shape.split(","))), "output": output, "target": options.target,
        "latency": f"{budget:g}x", "method": method, "prune_steps": STEPS.get(method, 5), "prune_epochs": 1,
        "epochs": options.epochs, "learning_rate": options.learning_rate, "batch_size": options.batch_size,
        "optimizer": options.optimizer, "accelerator": "cpu", "seed": seed,
    }  # fmt: skip
    return read_config({key: value for key, value in settings.items() if value is not None})


def ours(options: argparse.Namespace, method: str, budget: float, seed: int) -> dict[str, Any]:
    """One compression."""
    with tempfile.TemporaryDirectory() as folder:
        result = compress(config_of(options, method, budget, seed, Path(folder) / "run"), progress=Progress()).result
    keys = ("accuracy", "baseline_accuracy", "latency_ratio", "macs", "baseline_macs", "budget_met")
    return {key: result[key] for key in keys}


def torch_prunings(options: argparse.Namespace, budget: float, seed: int) -> dict[str, Any]:
    """The same with Torch-Pruning's global Taylor pruning."""
    config = config_of(options, "joint", budget, seed, Path("unused"))
    torch.manual_seed(seed)
    target, task = load_target(options.target), ClassificationTask()
    model = load_model(options.model)
    load_weights(model, Path(options.weights))
    data = load_data(options.data, input_shape=config.inputs[0].shape, seed=seed)
    example, settings = torch.randn(config.inputs[0].shape), _training(config, config.epochs + config.prune_epochs)
    baseline_accuracy = evaluate_model(model.eval(), data, task)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        export_onnx(model, example, dense)
        low, high, ratio, found = 0.0, 0.95, 1 - budget**0.5, None
        for _ in range(LOOKS):
            pruned = _pruned(model, example, data, settings, ratio)
            export_onnx(pruned, example, Path(folder) / "pruned.onnx")
            measured = measure_pair(dense, Path(folder) / "pruned.onnx", target, rounds=12).ratio / budget
            if measured <= WINDOW[1]:
                found, high = pruned, ratio
            if WINDOW[0] <= measured <= WINDOW[1]:
                break
            low, high = (ratio, high) if measured > WINDOW[1] else (low, ratio)
            ratio = (low + high) / 2
        assert found is not None, "no ratio was inside the budget"
        recalibrate_batchnorm(found, data, task, config=settings)
        train(found, data, task, settings)
        export_onnx(found.eval(), example, Path(folder) / "pruned.onnx")
        pair = measure_pair(dense, Path(folder) / "pruned.onnx", target, rounds=20)
    macs = [torch_pruning.utils.count_ops_and_params(one, example)[0] for one in (found, model)]
    return {
        "accuracy": evaluate_model(found, data, task),
        "baseline_accuracy": baseline_accuracy,
        "latency_ratio": [pair.ratio, pair.ratio_low, pair.ratio_high],
        "macs": macs[0],
        "baseline_macs": macs[1],
        "budget_met": pair.ratio <= budget,
    }


def _training(config: CompressConfig, epochs: int) -> TrainConfig:
    return TrainConfig(
        epochs=epochs, learning_rate=config.learning_rate, batch_size=config.batch_size, optimizer=config.optimizer,
        weight_decay=config.weight_decay, accelerator="cpu", seed=config.seed,
    )  # fmt: skip


def pretrain(options: argparse.Namespace) -> None:
    """The weights that every method starts from."""
    config = config_of(options, "joint", 1.0, 0, Path("unused"))
    torch.manual_seed(0)
    model = load_model(options.model)
    data = load_data(options.data, input_shape=config.inputs[0].shape, seed=0)
    settings = dataclasses.replace(
        _training(config, options.pretrain), learning_rate=options.pretrain_rate, warmup=options.pretrain / 4
    )
    train(model, data, ClassificationTask(), settings, hooks=Hooks(on_epoch=lambda s: print(s.history[-1], flush=True)))
    save_weights(options.weights, model)


def _pruned(model: nn.Module, example: torch.Tensor, data: Any, settings: TrainConfig, ratio: float) -> nn.Module:
    pruned = copy.deepcopy(model).train()
    for index, (images, labels) in enumerate(train_batches(data, settings, 0, augment=False)):
        nn.functional.cross_entropy(pruned(images), labels).backward()  # type: ignore[no-untyped-call]
        if index == 31:
            break
    heads = [module for module in pruned.modules() if isinstance(module, nn.Linear)][-1:]
    importance = torch_pruning.importance.GroupTaylorImportance()
    pruner = torch_pruning.pruner.BasePruner(
        pruned, example, importance, global_pruning=True, pruning_ratio=ratio, max_pruning_ratio=0.95,
        ignored_layers=heads,
    )  # fmt: skip
    pruner.step()
    pruned.zero_grad()
    return pruned.eval()


def report(results: Sequence[dict[str, Any]]) -> str:
    """Mean and spread of each method at each budget."""
    lines = [
        "| budget | method | accuracy, mean (least – most) | dense | measured latency | MACs | inside | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for budget in sorted({one["budget"] for one in results}, reverse=True):
        for method in METHODS:
            same = [one for one in results if (one["budget"], one["method"]) == (budget, method)]
            if not same:
                continue
            accuracy = [100 * one["accuracy"] for one in same]
            ratios = [one["latency_ratio"][0] for one in same]
            macs = statistics.mean(one["macs"] / one["baseline_macs"] for one in same)
            dense = statistics.mean(100 * one["baseline_accuracy"] for one in same)
            lines.append(
                f"| {budget:g}x | {method} | **{statistics.mean(accuracy):.2f}** ({min(accuracy):.2f} – "
                f"{max(accuracy):.2f}) | {dense:.2f} | {min(ratios):.3f}x – {max(ratios):.3f}x | {macs:.2f}x "
                f"| {sum(one['budget_met'] for one in same)} of {len(same)} "
                f"| {statistics.mean(one['minutes'] for one in same):.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "input-shape"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--pretrain", type=int, default=8, help="epochs")
    parser.add_argument("--pretrain-rate", type=float, default=0.05)
    parser.add_argument("--table")
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--target", default="local-onnxruntime")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--budgets", default="0.5,0.3")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not options.weights.exists():
        pretrain(options)
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    for seed in map(int, options.seeds.split(",")):
        for budget in map(float, options.budgets.split(",")):
            for method in options.methods.split(","):
                if any((one["method"], one["budget"], one["seed"]) == (method, budget, seed) for one in results):
                    continue
                begin = time.perf_counter()
                run = (
                    torch_prunings(options, budget, seed)
                    if method == "torch-pruning"
                    else ours(options, method, budget, seed)
                )
                minutes = (time.perf_counter() - begin) / 60
                results.append({"method": method, "budget": budget, "seed": seed, "minutes": minutes, **run})
                options.results.write_text(json.dumps(results, indent=1))
                print(report(results[-1:]).splitlines()[-1], flush=True)
    if options.report:
        options.report.write_text(report(results) + "\n")


if __name__ == "__main__":
    main()
