"""Channels restored from the dense network, on a network small enough to follow."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwprune.errors import InfeasibleError, InputError
from hwprune.network import masked, trace
from hwprune.pruning import PruneSchedule, price
from hwprune.regrow import DenseChannels, RestoreSchedule, RestoringPruner
from hwprune.saliency import TaylorWeight
from hwprune.training import load_checkpoint, save_checkpoint

from ..pruning.made_up import Bottleneck, batches, made_up_table
from .test_channels import off_positions

EXAMPLE = torch.zeros(1, 1, 8, 8)
NETWORK = trace(Bottleneck(), EXAMPLE)
MACS = price(NETWORK, "macs", step=1)
LATENCY = price(NETWORK, "latency_ms", table=made_up_table(NETWORK, step=4))
BLOCKS = price(NETWORK, "macs", step=1, blocks=True)
SCHEDULE = RestoreSchedule(fraction=0.4, prune=PruneSchedule(steps=2, interval=2), rounds=2, tune_steps=3)


def remembered(model: nn.Module) -> DenseChannels:
    dense = DenseChannels(model, NETWORK)
    for images, labels in batches(3, seed=4):
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        dense.update(model)
    model.zero_grad()
    return dense


class Run:
    """A model, its optimizer and its pruner, one step at a time."""

    def __init__(self, pricing: Any = MACS, used: float = 0.5, dense: DenseChannels | None = None, **settings: Any):
        self.model = Bottleneck().train()
        self.dense = dense or remembered(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01, weight_decay=0.1)
        self.limit = used * pricing.value(pricing.dense)
        settings = {"schedule": SCHEDULE, **settings}
        self.pruner = RestoringPruner(self.model, NETWORK, pricing, self.dense, limit=self.limit, **settings)

    def train(self, data: Any) -> None:
        images, labels = data
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()

    def steps(self, data: Any) -> Run:
        for batch in data:
            self.train(batch)
            self.pruner.step(self.optimizer)
        return self

    def state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


@pytest.mark.parametrize("pricing", [MACS, LATENCY], ids=["macs", "latency"])
def test_budgets_of_every_round(pricing: Any) -> None:
    run, data = Run(pricing), batches(SCHEDULE.steps)
    dense = pricing.value(pricing.dense)
    run.steps(data[:2])
    assert pricing.value(run.pruner.widths) <= (dense * 0.4 * run.limit) ** 0.5 * (1 + 1e-9)
    run.steps(data[2:4])
    lowest = pricing.value(run.pruner.widths)
    assert lowest <= max(0.4 * run.limit, pricing.value(pricing.smallest) * 1.00001)
    for part in (1, 2):
        held, before = run.pruner.masks.kept, run.pruner.widths
        run.steps(data[1 + 3 * part : 3 + 3 * part])
        assert run.pruner.widths == before
        assert not run.pruner.finished
        run.steps(data[3 + 3 * part : 4 + 3 * part])
        limit = lowest + (run.limit - lowest) * part / 2
        grown, kept = run.pruner.widths, run.pruner.masks.kept
        assert pricing.value(before) < pricing.value(grown) <= limit * (1 + 1e-9)
        assert all(set(held[group]) <= set(channels) for group, channels in kept.items())
        for group, width in grown.items():  # nothing that could be added was left out
            wider = min((w for w in pricing.widths[group] if w > width), default=None)
            if wider:
                assert pricing.value({**grown, group: wider}) > limit
    assert run.pruner.finished
    assert [record["call"] for record in run.pruner.grown] == [7, 10]


def test_what_comes_back_was_salient_in_the_dense_network() -> None:
    run = Run().steps(batches(6))
    active = run.pruner.masks.kept
    run.steps(batches(1, seed=3))
    model, scores = Bottleneck().train(), {group.name: np.zeros(group.channels) for group in NETWORK.cuttable}
    for images, labels in batches(3, seed=4):
        parameters = dict(model.named_parameters())
        loss = functional.cross_entropy(model(images), labels)
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        for group in NETWORK.cuttable:
            scores[group.name] += TaylorWeight().score(group, parameters, gradients).numpy()
    grown = 0
    for group, channels in run.pruner.masks.kept.items():
        new = sorted(set(channels) - set(active[group]))
        away = sorted(set(range(len(scores[group]))) - set(channels))
        grown += len(new)
        if new and away:
            assert scores[group][new].min() >= scores[group][away].max() * (1 - 1e-6)
    assert grown == run.pruner.grown[0]["grown"] > 0


@pytest.mark.parametrize("initial", ["dense", "mru"])
def test_values_of_what_comes_back(initial: Any) -> None:
    schedule = RestoreSchedule(**{**vars(SCHEDULE), "initial": initial})
    run, data = Run(schedule=schedule), batches(SCHEDULE.steps)
    dense, used, seen = Run().state(), Run().state(), 0
    dense |= {name: value for name, value in remembered(Bottleneck()).values.items()}
    for batch in data:
        run.train(batch)
        stepped, off = run.state(), off_positions(run.model, run.pruner.masks.kept)
        used = {name: torch.where(off[name], used[name], value) for name, value in stepped.items()}
        rounds = len(run.pruner.grown)
        run.pruner.step(run.optimizer)
        now, still = run.state(), off_positions(run.model, run.pruner.masks.kept)
        for name, value in now.items():
            empty = torch.full_like(value, float(name.endswith("running_var")))
            assert torch.equal(value[still[name]], empty[still[name]])
            assert torch.equal(value[~still[name] & ~off[name]], stepped[name][~still[name] & ~off[name]])
        if len(run.pruner.grown) == rounds:
            continue
        for name, value in now.items():
            on = off[name] & ~still[name]
            seen += int(on.sum())
            expected = dense if initial == "dense" else used
            assert torch.equal(value[on], expected[name][on]), name
        for name, parameter in run.model.named_parameters():
            on = off[name] & ~still[name]
            assert not run.optimizer.state[parameter]["exp_avg"][on].any()
            assert run.optimizer.state[parameter]["exp_avg"][~off[name]].any()
    assert seen > 0


def test_finish_is_the_masked_network_inside_the_budget() -> None:
    run = Run().steps(batches(SCHEDULE.steps + 2))
    run.model.eval()
    plan, smaller = run.pruner.finish()
    assert plan.widths == run.pruner.widths
    assert plan.used["macs"] <= run.limit
    reference = masked(run.model, NETWORK, plan.kept)
    with torch.no_grad():
        for images, _ in batches(2, seed=9):
            torch.testing.assert_close(smaller(images), reference(images), rtol=1e-4, atol=1e-5)


def test_a_block_comes_back() -> None:
    (block,) = NETWORK.blocks
    dense = BLOCKS.value(BLOCKS.dense)
    fraction = 1.2 * BLOCKS.value(BLOCKS.smallest) / (0.9 * dense)
    schedule = RestoreSchedule(fraction=fraction, prune=PruneSchedule(steps=1, interval=2), tune_steps=2)
    run, data = Run(BLOCKS, 0.9, schedule=schedule), batches(4)
    run.steps(data[:2])
    assert run.pruner.widths[block.presence] == 0
    run.steps(data[2:])
    assert run.pruner.widths[block.presence] > 0
    assert BLOCKS.value(run.pruner.widths) <= run.limit
    off, now = off_positions(run.model, run.pruner.masks.kept), run.state()
    values = remembered(Bottleneck()).values
    inside = [name for name in now if block.holds(name)]
    assert inside
    for name in inside:
        assert torch.equal(now[name][~off[name]], values[name][~off[name]]), name


@pytest.mark.parametrize("pricing", [MACS, BLOCKS], ids=["widths", "blocks"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 7, 9, 10])
def test_continuing_from_a_checkpoint_is_the_same(tmp_path: Path, pricing: Any, stop: int) -> None:
    data, used = batches(SCHEDULE.steps + 1), 0.5 if pricing is MACS else 0.2
    whole = Run(pricing, used).steps(data)
    first = Run(pricing, used).steps(data[:stop])
    parts = {"model": first.model, "optimizer": first.optimizer, "pruner": first.pruner, "dense": first.dense}
    save_checkpoint(tmp_path / "state", {name: part.state_dict() for name, part in parts.items()})
    saved = load_checkpoint(tmp_path / "state")
    dense = DenseChannels(Bottleneck(seed=7), NETWORK)
    dense.load_state_dict(saved["dense"])
    second = Run(pricing, used, dense)
    second.model.load_state_dict(saved["model"])
    second.optimizer.load_state_dict(saved["optimizer"])
    second.pruner.load_state_dict(saved["pruner"])
    second.steps(data[stop:])
    assert second.pruner.masks.kept == whole.pruner.masks.kept
    assert second.pruner.grown == whole.pruner.grown
    assert all(torch.equal(value, whole.state()[name]) for name, value in second.state().items())
    assert second.pruner.finish()[0].cuts == whole.pruner.finish()[0].cuts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0}, "fraction=0"),
        ({"fraction": 1}, "fraction=1"),
        ({"rounds": 0}, "rounds=0"),
        ({"tune_steps": 0}, "tune_steps=0"),
        ({"initial": "zero"}, "initial is 'zero'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RestoreSchedule(**settings)


def test_what_is_refused() -> None:
    model = Bottleneck()
    with pytest.raises(InputError, match="no saliency was collected"):
        Run(dense=DenseChannels(model, NETWORK))
    with pytest.raises(InfeasibleError):
        Run(used=1e-6)
    dense = remembered(model)
    before = copy.deepcopy(dense.state_dict())
    with torch.no_grad():
        model.fc.weight += 1
    with pytest.raises(InputError, match="not what it was"):
        dense.update(model)
    assert torch.equal(before["values"]["fc.weight"], dense.values["fc.weight"])
