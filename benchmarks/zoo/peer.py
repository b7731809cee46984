"""Torch-Pruning on one architecture, used as a newcomer would: ``python peer.py NAME SHAPE`` prints JSON.

The classifier is left alone (the last linear or 1x1 layer with as many outputs as the model), half of everything else
goes by magnitude; it passes if parameters went and the result still runs forward and backward.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch_pruning
from torch import nn

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
from one import example_of, fresh  # noqa: E402

from hwprune.network.forward import tensors_of  # noqa: E402


def check(name: str, shape: tuple[int, ...]) -> dict[str, object]:
    """Whether it prunes, and what share of the parameters it keeps."""
    found: dict[str, object] = {"model": name, "passed": False}
    try:
        model, example = fresh(name), example_of(shape)
        before = sum(parameter.numel() for parameter in model.parameters())
        classes = tensors_of(model(example))[0].shape[1]
        heads = [
            module
            for module in model.modules()
            if (isinstance(module, nn.Linear) and module.out_features == classes)
            or (isinstance(module, nn.Conv2d) and module.out_channels == classes)
        ]
        pruner = torch_pruning.pruner.BasePruner(
            model, example, torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=heads,
        )  # fmt: skip
        pruner.step()
        outputs = tensors_of(model.eval()(example))
        sum((one.float() ** 2).mean() for one in outputs if one.requires_grad).backward()  # type: ignore[union-attr]
        kept = sum(parameter.numel() for parameter in model.parameters()) / before
        return {**found, "passed": kept < 0.99, "kept": kept, "reason": "" if kept < 0.99 else "nothing was pruned"}
    except Exception as error:
        return {**found, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps(check(sys.argv[1], tuple(map(int, sys.argv[2].split(","))))))
