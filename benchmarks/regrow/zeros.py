"""What zeros in weights are worth in latency: the same network, dense and sparse, in interleaved rounds.

Weights of a ResNet-18 and a MobileNetV2 (random, as the values do not matter) are set to zero, single ones by
magnitude, or all but two of four inputs in a row; both networks are exported and measured by turns. Prints a Markdown
table.

    python benchmarks/regrow/zeros.py [--targets local-onnxruntime,local-openvino] [--rounds N] [--output RESULT.md]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from hwprune.deploy import export_onnx, measure_pair
from hwprune.network import load_model
from hwprune.regrow import NM, SparseMasks, SparsePruner
from hwprune.targets import load_target

MODELS = ("resnet18.py:build", "mobilenetv2.py:build")
SHAPE = (1, 3, 224, 224)
SPARSITIES = (0.5, 0.9, 0.98)


def sparse(source: str, sparsity: float | None) -> tuple[nn.Module, float]:
    """A network with zeros, and their share in the weights of two and more dimensions; 2:4 without a sparsity."""
    torch.manual_seed(0)
    model = load_model(f"{Path(__file__).parents[1] / 'models' / source}").eval()
    if sparsity is None:
        pruner = SparsePruner(model, torch.optim.SGD(model.parameters(), lr=0.1), NM(steps=1))
        return model, 1 - pruner.masks.density
    masks = SparseMasks(model)
    masks.keep_largest(round((1 - sparsity) * masks.total))
    masks.apply()
    return model, 1 - masks.density


def rows(options: argparse.Namespace) -> Iterator[str]:
    yield "| network | runtime | zeros | latency of the sparse one, of the dense one's [95 %] |"
    yield "|---|---|---|---|"
    example = torch.randn(SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "dense.onnx", Path(folder) / "sparse.onnx"
        for source in MODELS:
            export_onnx(sparse(source, 0.0)[0], example, before)
            for sparsity in (*SPARSITIES, None):
                model, zeros = sparse(source, sparsity)
                export_onnx(model, example, after)
                for name in options.targets.split(","):
                    pair = measure_pair(before, after, load_target(name), rounds=options.rounds)
                    kind = "single weights" if sparsity else "2:4"
                    yield (
                        f"| {source.partition('.')[0]} | {name.removeprefix('local-')} | {zeros:.0%}, {kind} "
                        f"| {pair.ratio:.3f} [{pair.ratio_low:.3f}, {pair.ratio_high:.3f}] |"
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="local-onnxruntime,local-openvino")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = []
    for row in rows(options):
        print(row, flush=True)
        lines.append(row)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
