"""Weights and memory that hwprune works out from a trace, against real files and ONNX Runtime's own allocator.

For each model file beside this one, dense and at random widths that fill the runtime's blocks of channels: bytes of
weights against the initializers of the exported file, peak activations against what the allocator counted, with tensors
freed after their last reader and in the runtime's default mode. Prints a Markdown table.

    python benchmarks/memory.py [--output RESULT.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

import hwprune
from hwprune.deploy import channel_block, export_onnx, measure_memory
from hwprune.footprint import footprint
from hwprune.latency import allowed_widths
from hwprune.network import cut, load_model
from hwprune.targets import load_target, runtime_for

MODELS = {"resnet18": (1, 3, 224, 224), "mobilenetv2": (1, 3, 224, 224), "unet": (1, 3, 96, 96)}
HERE = Path(__file__).parent
TARGET = load_target("local-onnxruntime")


def rows(name: str, shape: tuple[int, ...], cuts: int) -> Iterator[str]:
    """Lines of one model."""
    torch.manual_seed(0)
    model = load_model(f"{HERE / 'models' / name}.py:build").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)  # equal tensors, such as biases of zero, would be stored once
    example, block, chooser = torch.randn(shape), channel_block(TARGET), random.Random(0)
    network = hwprune.trace(model, example, verify=False)
    for number in range(cuts + 1):
        offered = {group.name: allowed_widths(group.channels, block) for group in network.cuttable}
        widths = {group: chooser.choice(some) if number else some[-1] for group, some in offered.items()}
        smaller = cut(model, network.cuts({group: list(range(width)) for group, width in widths.items()}))
        taken = footprint(network, runtime_for(TARGET), widths=widths)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(smaller, example, path)
            held = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)
            sparing, default = measure_memory(path, TARGET), measure_memory(path, TARGET, sparing=False)
            size = path.stat().st_size
        yield (
            f"| {name} {'×'.join(map(str, shape))} | {f'cut {number}' if number else 'dense'} | {taken.parameters} "
            f"| {taken.weight_bytes} | {held} | {size} | {taken.activation_bytes} "
            f"| {sparing.activations if sparing else math.nan} | {default.activations if default else math.nan} |"
        )


def main() -> None:
    """Run all models and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=3, help="random cuts of each model")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        f"Bytes; random weights, blocks of {channel_block(TARGET)} channels, {datetime.date.today()}, "
        f"hwprune {hwprune.__version__}.",
        "",
        "| model | widths | parameters | weights, worked out | initializers | file "
        "| activations, worked out | counted by the allocator | in its default mode |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row for name, shape in MODELS.items() for row in rows(name, shape, options.cuts)),
        "",
        f"Device: `{json.dumps(runtime_for(TARGET).fingerprint())}`",
    ]
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
