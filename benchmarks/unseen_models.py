"""Three networks that hwprune has not seen, random weights, half the latency: is each budget met when measured?

For each model file beside this one: ``hwprune compress --latency 0.5x`` through the command line, as a user would.
Then, independently of the run's own numbers: the dense and the delivered engine are measured again in interleaved
rounds; the plan is replayed on a fresh instance whose batch-norm statistics were filled with noise, and held against
the original with the removed channels masked; the delivered engine is held against torch. Prints a Markdown table.

    python benchmarks/unseen_models.py [--latency 0.5x] [--output RESULT.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import hwprune
from hwprune.deploy import compare, measure_pair
from hwprune.network import load_model, verify_cut
from hwprune.targets import load_target, runtime_for

MODELS = {"resnet18": (1, 3, 224, 224), "mobilenetv2": (1, 3, 224, 224), "unet": (1, 3, 96, 96)}
HERE = Path(__file__).parent
NOISE = """
import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

metric = "loss (negative)"


def data():
    torch.manual_seed(0)
    images = torch.randn(24, *{shape})
    labels = images.flatten(1)[:, 0] > 0
    return TensorDataset(images[:16], labels[:16]), TensorDataset(images[16:], labels[16:])


def loss(model, batch):
    return functional.softplus(model(batch[0]).flatten(1).mean(1) * (1 - 2 * batch[1].float())).mean()


def evaluate(predict):
    images, labels = data()[1].tensors
    return -float(functional.softplus(predict(images).flatten(1).mean(1) * (1 - 2 * labels.float())).mean())
"""


def compress(name: str, shape: tuple[int, ...], latency: str, folder: Path) -> dict[str, Any]:
    """Run the command line on one model."""
    (folder / "task.py").write_text(NOISE.format(shape=tuple(shape[1:])))
    command = [
        *(sys.executable, "-m", "hwprune", "compress", "--json"),
        *("--model", f"{HERE / 'models' / name}.py:build", "--input-shape", ",".join(map(str, shape))),
        *("--data", f"{folder / 'task.py'}:data", "--task", str(folder / "task.py")),
        *("--latency", latency, "--method", "halp-oneshot", "--saliency-batches", "4", "--batch-size", "4"),
        *("--epochs", "1", "--learning-rate", "0.0001", "--output", str(folder / "run")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{name}: exit {done.returncode}\n{done.stderr}")
    return {"exit": done.returncode, **json.loads(done.stdout)}


def recheck(name: str, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Measure and compare again, outside the run."""
    target = load_target("local-onnxruntime")
    torch.manual_seed(7)
    fresh = load_model(f"{HERE / 'models' / name}.py:build").eval()
    for module in fresh.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = 0.5 + torch.rand(module.num_features)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    example = torch.randn(shape)
    plan = hwprune.Plan.load(folder / "run" / "plan.json")
    network = hwprune.trace(fresh, example, verify=False)
    masked = verify_cut(fresh, hwprune.load(plan, fresh), network, plan.kept, example)
    trained = hwprune.load(folder / "run", load_model(f"{HERE / 'models' / name}.py:build")).eval()
    engine = runtime_for(target).open(folder / "run" / "bundle" / "model.onnx", target)
    parity = compare(trained, engine, [torch.randn(shape) for _ in range(8)])
    pair = measure_pair(folder / "run" / "baseline.onnx", folder / "run" / "bundle" / "model.onnx", target, rounds=30)
    return {"masked": masked.max_relative_error, "parity": parity.relative_l2, "pair": pair}


def row(name: str, shape: tuple[int, ...], latency: str) -> str:
    """One line of the result."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = compress(name, shape, latency, folder)
        again = recheck(name, shape, folder)
    pair = again["pair"]
    return (
        f"| {name} {'×'.join(map(str, shape))} | {run['baseline_latency_ms']:.3f} | {run['budget']:.3f} "
        f"| {run['predicted_latency_ms']:.3f} | {run['measured_latency_ms']:.3f} | {run['budget_used']:.1%} "
        f"| {pair.ratio:.3f} [{pair.ratio_low:.3f}, {pair.ratio_high:.3f}] | {run['trials']} | {run['attempts']} "
        f"| {again['masked']:.1e} | {again['parity']:.1e} | {run['exit']} |"
    )


def main() -> None:
    """Run all models and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", default="0.5x")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = runtime_for(load_target("local-onnxruntime")).fingerprint()
    lines = [
        f"Budget {options.latency}, random weights, {datetime.date.today()}, hwprune {hwprune.__version__}.",
        "",
        "| model | dense ms | budget ms | predicted ms | measured ms | of budget | re-measured ratio [95 %] "
        "| networks measured | attempts | masked = cut | engine = torch | exit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(row(name, MODELS[name], options.latency) for name in options.models),
        "",
        f"Device: `{json.dumps(device)}`",
    ]
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
