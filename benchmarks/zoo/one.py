"""One architecture of the zoo under test, in a process of its own: ``python one.py NAME SHAPE`` prints JSON.

Random weights, random statistics of norms, half of every group cut at random. What is checked, in this order; the first
that fails ends it, with the reason:

1. ``trace``: there is something to cut; how long it took beyond a forward pass.
2. ``equal``: the cut network answers like the original with those channels masked.
3. ``blocks``: so it does with every other residual block removed, where there are any.
4. ``replay``: the cuts on a fresh instance give the same parameters.
5. ``export``: ONNX Runtime loads the export and answers like torch.
6. ``backward``: gradients reach every parameter that they reached before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
from latency_prediction import build, importable  # noqa: E402

from hwprune.deploy import export_onnx  # noqa: E402
from hwprune.network import Network, cut, trace, verify_cut  # noqa: E402
from hwprune.network.forward import outputs_of, tensors_of  # noqa: E402

TOLERANCE = 1e-4
EXPORTED = 1e-3  # relative, between torch and ONNX Runtime


def randomised(model: nn.Module) -> nn.Module:
    """Statistics and scales of norms, so that no two channels are alike and none is switched off."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in (*module.named_buffers(recurse=False), *module.named_parameters(recurse=False)):
                if name in ("running_mean", "bias") and tensor.dim() == 1 and hasattr(module, "eps"):
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
                if name in ("running_var", "weight") and tensor.dim() == 1 and hasattr(module, "eps"):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def fresh(name: str) -> nn.Module:
    """A new instance, the same every time; those for segmentation and detection are in submodules of torchvision."""
    torch.manual_seed(0)
    library, _, model = name.partition(":")
    if library == "transformers":
        return randomised(_transformer(model)).eval()
    if "." not in model:
        return randomised(build(name))
    kind, _, model = model.partition(".")
    importable()
    found = getattr(importlib.import_module(f"{library}.models.{kind}"), model)(weights=None, weights_backbone=None)
    return randomised(Detector(found) if kind == "detection" else found).eval()


def _transformer(kind: str) -> nn.Module:
    """A classifier of transformers with four layers, otherwise as its configuration is by default."""
    importable()
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.for_model(kind)
    depths = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_decoder_layers")
    known = {name: 4 for name in depths if isinstance(getattr(config, name, None), int)}
    config = transformers.AutoConfig.for_model(kind, **known, vocab_size=1000, pad_token_id=0, use_cache=False)
    image = hasattr(config, "image_size")
    maker = transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
    made: nn.Module = maker.from_config(config, attn_implementation="eager")
    return made


class Detector(nn.Module):
    """What of a torchvision detector a device runs densely: backbone and heads, without proposals and suppression.

    Its custom operators for these are not in a CPU build, and boxes have no channels. Of a two-stage detector, the head
    that proposes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = model.backbone
        self.head: nn.Module = model.rpn.head if hasattr(model, "rpn") else model.head

    def forward(self, images: torch.Tensor) -> Any:
        """Images (N, 3, H, W) to scores and boxes of every anchor."""
        return self.head(list(self.backbone(images).values()))


def halves(network: Network) -> dict[str, list[int]]:
    """A random half of every group that can be cut."""
    rng = np.random.default_rng(0)
    return {
        g.name: sorted(rng.choice(g.channels, (g.channels + 1) // 2, replace=False).tolist()) for g in network.cuttable
    }


def example_of(shape: tuple[int, ...]) -> torch.Tensor:
    """An image, or as many words as the second number says."""
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(shape, generator=generator)
        if len(shape) > 2
        else torch.randint(1, 1000, shape, generator=generator)
    )


def check(name: str, shape: tuple[int, ...], *, export: bool = True) -> dict[str, Any]:
    """Everything, until something fails; ``export`` takes most of the time."""
    found: dict[str, Any] = {"model": name, "shape": shape, "passed": False, "stage": "build"}
    try:
        return _checked(name, example_of(shape), found, export)
    except Exception as error:
        found["reason"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return found


def _checked(name: str, example: torch.Tensor, found: dict[str, Any], export: bool) -> dict[str, Any]:
    model = fresh(name)
    begin = time.perf_counter()
    outputs_of(model, example)
    found["forward_s"] = time.perf_counter() - begin
    found["stage"] = "trace"
    begin = time.perf_counter()
    network = trace(model, example)
    found["trace_s"] = time.perf_counter() - begin
    found["groups"], found["frozen"] = len(network.cuttable), dict(_reasons(network))
    if not network.cuttable:
        found["reason"] = "nothing can be cut"
        return found
    found["parameters"], found["macs"] = network.reachable
    found["stage"] = "equal"
    kept = halves(network)
    smaller = cut(model, network.cuts(kept))
    report = verify_cut(model, smaller, network, kept, example, tolerance=TOLERANCE)
    found["error"], found["kept"] = report.max_relative_error, report.parameters / network.total_parameters
    found["stage"], found["blocks"] = "blocks", len(network.blocks)
    if network.blocks:
        without = kept | {group: [] for block in network.blocks[::2] for group in block.groups}
        verify_cut(model, cut(model, network.cuts(without)), network, without, example, tolerance=TOLERANCE)
    found["stage"] = "replay"
    again = cut(fresh(name), network.cuts(kept)).state_dict()
    if any(not torch.equal(tensor, again[key]) for key, tensor in smaller.state_dict().items()):
        raise AssertionError("the replayed cuts gave other weights")
    if export:
        found["stage"] = "export"
        found["export_error"] = _exported(smaller.eval(), example)
    found["stage"] = "backward"
    _backward(model, smaller, example)
    return {**found, "passed": True, "stage": "done"}


def _reasons(network: Network) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for group in network.frozen:
        reason = group.frozen or ""
        counts[reason.rpartition(" in ")[0] + ")" if reason.endswith(")") and " in " in reason else reason] += 1
    return counts.most_common(8)


def _backward(model: nn.Module, smaller: nn.Module, example: torch.Tensor) -> None:
    reached = []
    for one in (model, smaller):
        one.eval().zero_grad()
        outputs = [tensor for tensor in tensors_of(one(example)) if tensor.is_floating_point() and tensor.requires_grad]
        sum((tensor.float() ** 2).mean() for tensor in outputs).backward()  # type: ignore[union-attr]
        reached.append({key for key, parameter in one.named_parameters() if parameter.grad is not None})
    if reached[0] - reached[1]:
        raise AssertionError(f"no gradient reaches {sorted(reached[0] - reached[1])[:3]}")


def _exported(model: nn.Module, example: torch.Tensor) -> float:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, example, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    worst = 0.0
    for answer, wanted in zip(answers, outputs_of(model, example), strict=True):
        difference = np.abs(answer.astype(np.float64) - wanted.double().numpy()).max()
        worst = max(worst, float(difference / max(1e-12, float(wanted.double().abs().max()))))
    if not worst <= EXPORTED:
        raise AssertionError(f"ONNX Runtime's answers differ by {worst:.2g}")
    return worst


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("shape")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    print(json.dumps(check(options.name, tuple(map(int, options.shape.split(","))))))


if __name__ == "__main__":
    main()
