"""Prices against networks that were really cut, and against ``predict``."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwprune.errors import BudgetError, InfeasibleError, InputError, MissingLatencyError
from hwprune.footprint import footprint
from hwprune.latency import LatencyTable, predict
from hwprune.network import Network, cut, trace
from hwprune.network.network import Block
from hwprune.pruning import price
from hwprune.targets import Target, runtime_for

from ..network import models
from ..network.test_attention import Encoder
from .made_up import made_up_table

IMAGE = torch.randn(2, 3, 16, 16)
KINDS = {
    "residual": models.ResNet,
    "concat": models.UNet,
    "depthwise": models.MobileNetV2,
    "grouped": models.Grouped,
    "flatten": models.Flattened,
    "dense": models.DenseNet,
    "split": models.Chunked,
    "shared": models.Shared,
    "tokens": models.ViT,
    "norms": models.Norms,
    "heads": functools.partial(Encoder, True),
    "heads written out": functools.partial(Encoder, False),
}
# Cut, it leaves num_features of a norm without parameters as it was; torch ignores it, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features:UserWarning")
SIDES = {"tokens": 32, "heads": 32, "heads written out": 32}


@pytest.fixture(scope="module", params=KINDS)
def traced(request: pytest.FixtureRequest) -> tuple[nn.Module, Network, torch.Tensor]:
    torch.manual_seed(0)
    side = SIDES.get(request.param, 16)
    example, model = torch.randn(2, 3, side, side), KINDS[request.param]().eval()
    return model, trace(model, example, head_sizes=True), example


def some_widths(network: Network, allowed: dict[str, tuple[int, ...]], seed: int) -> dict[str, int]:
    chooser = random.Random(seed)
    return {group.name: chooser.choice(allowed[group.name]) for group in network.cuttable}


def really_cut(model: nn.Module, network: Network, widths: dict[str, int], seed: int) -> nn.Module:
    chooser = random.Random(seed)
    sizes = {group.name: group.channels for group in network.cuttable}
    return cut(model, network.cuts({g: sorted(chooser.sample(range(sizes[g]), w)) for g, w in widths.items()}))


def counted(model: nn.Module, example: torch.Tensor) -> float:
    """Multiply-accumulates by torch's own count, products of activations among them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("step", [1, 4])
def test_macs_are_those_of_the_network_really_cut(traced, step: int) -> None:
    model, network, example = traced
    prices = price(network, "macs", step=step)
    for seed in range(4):
        widths = some_widths(network, prices.widths, seed)
        smaller = really_cut(model, network, widths, seed)
        assert prices.value(widths) == pytest.approx(counted(smaller, example), rel=1e-9)


@pytest.mark.parametrize("metric", ["size_bytes", "memory_bytes", "activations"])
def test_bytes_are_those_of_the_footprint(traced, metric: str) -> None:
    """Which is held against exported networks and against ONNX Runtime's allocator in its own tests."""
    _, network, _ = traced
    alone, target = metric == "activations", Target(name="any", precision="fp16")
    metric = "memory_bytes" if alone else metric
    prices = price(network, metric, step=3, target=target, weights_in_flash=alone, graph_bytes=500.0)
    frozen, seen = {group.name: group.channels for group in network.frozen}, set()
    for seed in range(12):
        widths = some_widths(network, prices.widths, seed)
        taken = footprint(network, runtime_for(target), "fp16", {**frozen, **widths})
        if metric == "size_bytes":
            expected = taken.weight_bytes + 500
        else:
            expected = taken.activation_bytes if alone else taken.memory_bytes
        assert prices.value(widths) == pytest.approx(expected, abs=0.5)  # whole bytes per layer
        seen.add(expected)
    assert len(seen) > 1


def test_steps_that_never_hold_more_than_another_are_left_out() -> None:
    """One group in ever smaller tensors: its first pooling stands for all; the head holds its result besides."""
    poolings = [nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)]
    network = trace(nn.Sequential(nn.Conv2d(3, 4, 1), *poolings, nn.Conv2d(4, 4, 1)), IMAGE)
    assert {cost.step for cost in price(network, "memory_bytes", weights_in_flash=True).costs} == {"1", "4"}
    assert {cost.step for cost in price(network, "memory_bytes").costs} == {"", "1", "4"}
    assert {cost.step for cost in price(network, "size_bytes").costs} == {""}


def test_latencies_are_what_predict_says(traced) -> None:
    _, network, _ = traced
    table = made_up_table(network, step=2)
    prices = price(network, "latency_ms", table=table)
    positions = {group.name: group.positions for group in network.cuttable}
    assert all(w * (positions[g] or 1) % 2 == 0 for g, widths in prices.widths.items() for w in widths[:-1])
    frozen = {group.name: group.channels for group in network.frozen}
    seen = set()
    for seed in range(25):
        widths = some_widths(network, prices.widths, seed)
        expected = predict(network.layers, table, {**frozen, **widths}).latency_ms
        assert prices.value(widths) == pytest.approx(expected, rel=1e-9)
        seen.add(expected)
    assert len(seen) > 1
    assert prices.value(prices.dense) == pytest.approx(predict(network.layers, table).latency_ms, rel=1e-9)


def test_problem_offers_what_is_left_and_values_the_best_channels() -> None:
    network = trace(models.Flattened(), IMAGE)
    prices = price(network, "macs", step=4)
    assert prices.widths == {"a": (4, 8), "b": (4, 8, 12), "fc1": (4, 8, 12, 16, 20)}
    scores = {group.name: np.arange(group.channels, dtype=float) for group in network.cuttable}
    kept = {"a": [0, 2, 4, 5, 6], "b": list(range(4)), "fc1": list(range(20))}
    problem = prices.problem(scores, kept, limit=1e6)
    assert problem.groups["a"].widths == (4, 5)
    assert problem.groups["a"].saliency == (2 + 4 + 5 + 6, 0 + 2 + 4 + 5 + 6)
    assert problem.groups["b"].widths == (4,)
    assert problem.budgets == {"macs": 1e6}


def test_nothing_to_cut_is_said_with_reasons() -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 4, 3)), IMAGE)
    with pytest.raises(BudgetError, match="output"):
        price(network, "macs")


def test_a_table_that_lacks_a_layer_is_refused() -> None:
    network = trace(models.Flattened(), IMAGE)
    table = made_up_table(network)
    lacking = LatencyTable(**{**vars(table), "entries": table.entries[1:]})
    with pytest.raises(MissingLatencyError, match="no entry"):
        price(network, "latency_ms", table=lacking)


def test_a_limit_out_of_reach_is_refused_with_the_least() -> None:
    prices = price(trace(models.Flattened(), IMAGE), "macs", step=4)
    least = prices.value(prices.smallest)
    prices.check_reach(least)
    with pytest.raises(InfeasibleError) as caught:
        prices.check_reach(least * 0.99)
    assert caught.value.least == {"macs": pytest.approx(least)}
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="macs"):
            prices.check_reach(wrong)


# Blocks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["macs", "size_bytes", "memory_bytes", "latency_ms"])
def test_without_blocks_it_costs_what_the_network_without_them_does(metric: str) -> None:
    torch.manual_seed(0)
    model, runtime = Deep().eval(), runtime_for(Target(name="any"))
    network = trace(model, IMAGE)
    assert [block.name for block in network.blocks] == ["a", "b", "c"]
    table = made_up_table(network, step=2) if metric == "latency_ms" else None
    prices = price(network, metric, step=2, table=table, blocks=True)
    assert prices.blocks == {"a": ("a.0",), "b": ("b.0",), "c": ("c.0", "c.2")}
    for seed in range(6):
        widths = some_widths(network, prices.widths, seed)
        gone = random.Random(seed).sample(network.blocks, 1 + seed % 3)
        widths |= dict.fromkeys(gone_groups(gone), 0)
        whole = {**network.dense_widths, **widths}
        smaller = really_cut(model, network, {**widths, **dict.fromkeys(gone_groups(gone), 1)}, seed)
        smaller.gone = {block.name for block in gone}
        again = trace(smaller, IMAGE, verify=False)
        if metric == "latency_ms":
            expected = predict(network.layers, table, whole).latency_ms
            absent = {name for block in gone for name in block.layers}
            timed = predict(network.layers, table, whole).per_layer
            assert {layer.name for layer in timed if layer.source == "removed"} == absent
        elif metric == "macs":
            expected = again.macs_at(again.dense_widths)
        else:
            unread = {name for name, _ in smaller.named_parameters() if name[0] in smaller.gone}
            assert {tensor.name for tensor in again.parameters if tensor.layer is None} == unread
            counted = footprint(again, runtime)
            expected = counted.weight_bytes if metric == "size_bytes" else counted.memory_bytes
        assert prices.value(widths) == pytest.approx(expected, rel=1e-9)


def gone_groups(blocks: list[Block]) -> list[str]:
    return [group for block in blocks for group in block.groups]


class Deep(nn.Module):
    """Three blocks on one stream, some of which never run."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[str] = set()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 8, 1))
        self.b = nn.Sequential(nn.Conv2d(8, 12, 1), nn.SiLU(), nn.Conv2d(12, 8, 3, padding=1))
        layers = [nn.Conv2d(8, 4, 1), nn.SiLU(), nn.Conv2d(4, 10, 3, padding=1), nn.SiLU(), nn.Conv2d(10, 8, 1)]
        self.c = nn.Sequential(*layers)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for name in sorted({"a", "b", "c"} - self.gone):
            x = x + self.get_submodule(name)(x)
        return self.head(x)


def test_blocks_reach_below_the_least_widths() -> None:
    network = trace(Deep().eval(), IMAGE)
    narrow, without = price(network, "macs", step=2), price(network, "macs", step=2, blocks=True)
    least = narrow.value(narrow.smallest)
    assert without.value(without.smallest) < least
    with pytest.raises(InfeasibleError):
        narrow.check_reach(0.99 * least)
    without.check_reach(0.99 * least)
    without.check_reach(without.value(without.smallest) * 1.001)
    with pytest.raises(InfeasibleError):
        without.check_reach(without.value(without.smallest) * 0.999)


def test_what_was_removed_is_no_part_of_the_next_problem() -> None:
    network = trace(Deep().eval(), IMAGE)
    prices = price(network, "macs", step=2, blocks=True)
    scores = {group.name: np.arange(1.0, group.channels + 1) for group in network.cuttable}
    kept = {group.name: list(range(group.channels)) for group in network.cuttable}
    whole, part = (prices.problem(scores, alive, 1e9) for alive in (kept, {**kept, "c.0": [], "c.2": []}))
    assert whole.groups.keys() - part.groups.keys() == {"c.0", "c.2"}
    assert (set(whole.blocks), set(part.blocks)) == ({"a", "b", "c"}, {"a", "b"})
    widths = prices.dense
    removed = {**widths, "c.0": 0, "c.2": 0}
    assert part.evaluate(widths)["macs"] == pytest.approx(whole.evaluate(removed)["macs"])
    assert part.evaluate(widths)["macs"] == pytest.approx(prices.value(removed))
