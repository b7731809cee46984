"""IEE for channels: what happens in every stage, on a network small enough to follow."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwprune.errors import InfeasibleError, InputError
from hwprune.network import masked, trace
from hwprune.pruning import price
from hwprune.regrow import ExploreSchedule, ExploringPruner
from hwprune.saliency import criteria
from hwprune.training import load_checkpoint, save_checkpoint

from ..pruning.made_up import Bottleneck, batches, made_up_table

EXAMPLE = torch.zeros(1, 1, 8, 8)
NETWORK = trace(Bottleneck(), EXAMPLE)
MACS = price(NETWORK, "macs", step=1)
LATENCY = price(NETWORK, "latency_ms", table=made_up_table(NETWORK, step=4))
BLOCKS = price(NETWORK, "macs", step=1, blocks=True)
SCHEDULE = ExploreSchedule(cycles=2, importance_steps=3, accuracy_steps=2, exploration_steps=4, fraction=0.4)
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


class Run:
    """A model, its optimizer and its pruner, one step at a time."""

    def __init__(self, optimizer: str = "sgd", pricing: Any = MACS, used: float = 0.5, seed: int = 0, **settings: Any):
        self.model = Bottleneck(seed).train()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        settings = {"schedule": SCHEDULE, **settings}
        self.limit = used * pricing.value(pricing.dense)
        self.pruner = ExploringPruner(self.model, NETWORK, pricing, limit=self.limit, **settings)

    def step(self, data: Any) -> None:
        images, labels = data
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()
        self.pruner.step(self.optimizer)

    def steps(self, data: Any) -> Run:
        for batch in data:
            self.step(batch)
        return self

    def state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def moments(self) -> dict[str, torch.Tensor]:
        return {
            f"{name} {key}": value.clone()
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape
        }


def off_positions(model: nn.Module, kept: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensor → what belongs to channels that are not kept, from the groups' members themselves."""
    found = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in model.state_dict().items()}
    for group in NETWORK.cuttable:
        gone = sorted(set(range(group.channels)) - set(kept[group.name]))
        for member in group.tensors:
            for channel, position in itertools.product(gone, range(member.index.shape[1])):
                found[member.tensor].select(member.dim, int(member.index[channel, position])).fill_(True)
    return found


@each_optimizer
def test_only_what_is_pruned_is_trained_while_exploring(optimizer: str) -> None:
    run, data = Run(optimizer), batches(SCHEDULE.steps)
    begin = SCHEDULE.importance_steps + SCHEDULE.accuracy_steps
    run.steps(data[: begin - 1])
    assert not run.pruner.exploring
    active = run.pruner.masks.kept
    run.step(data[begin - 1])
    assert run.pruner.exploring
    off = off_positions(run.model, active)
    assert any(mask.any() for mask in off.values())
    before, widths = run.state(), run.pruner.widths
    for batch in data[begin : begin + SCHEDULE.exploration_steps - 1]:
        run.step(batch)
        after = run.state()
        assert run.pruner.exploring
        assert run.pruner.widths == widths
        for name, tensor in after.items():
            assert torch.equal(tensor[~off[name]], before[name][~off[name]]), name
        moved = {name for name, mask in off.items() if mask.any() and not torch.equal(after[name], before[name])}
        assert {name for name, mask in off.items() if mask.any()} == moved
    run.step(data[begin + SCHEDULE.exploration_steps - 1])
    assert not run.pruner.exploring


@each_optimizer
def test_it_starts_from_the_values_used_most_recently(optimizer: str) -> None:
    """Those of the step at which a channel was pruned; in later cycles, those that exploration left it with."""
    run, data = Run(optimizer), batches(SCHEDULE.steps)
    last: dict[str, torch.Tensor] = {}  # what every position held when it was last switched on
    seen = 0
    for batch in data:
        was = run.pruner.exploring
        images, labels = batch
        run.optimizer.zero_grad()
        functional.cross_entropy(run.model(images), labels).backward()
        run.optimizer.step()
        stepped = run.state()
        kept = run.pruner.active
        off = off_positions(run.model, kept)
        run.pruner.step(run.optimizer)
        for name, value in stepped.items():  # exploring, what is not active is on; otherwise what is
            on = off[name] if was else ~off[name]
            last[name] = torch.where(on, value, last.get(name, value))
        if run.pruner.exploring and not was:
            off = off_positions(run.model, run.pruner.active)
            for name, tensor in run.state().items():
                assert torch.equal(tensor[off[name]], last[name][off[name]]), name
            seen += 1
    assert seen == SCHEDULE.cycles


@each_optimizer
def test_what_the_optimizer_remembers(optimizer: str) -> None:
    run, data = Run(optimizer), batches(SCHEDULE.steps)
    begin = SCHEDULE.importance_steps + SCHEDULE.accuracy_steps
    run.steps(data[:begin])
    off = off_positions(run.model, run.pruner.active)
    before = run.moments()
    for name, value in before.items():
        assert not value[off[name.split()[0]]].any(), name
    run.steps(data[begin : SCHEDULE.cycle - 1])
    assert any(value[off[name.split()[0]]].any() for name, value in run.moments().items())
    run.step(data[SCHEDULE.cycle - 1])
    for name, value in run.moments().items():
        mask = off[name.split()[0]]
        assert torch.equal(value[~mask], before[name][~mask]), name
        assert not value[mask].any(), name


@pytest.mark.parametrize("gradual", [True, False])
@pytest.mark.parametrize("pricing", [MACS, LATENCY], ids=["macs", "latency"])
def test_budgets_of_every_cycle(pricing: Any, gradual: bool) -> None:
    schedule = ExploreSchedule(
        cycles=3, importance_steps=2, accuracy_steps=1, exploration_steps=2, fraction=0.4, gradual=gradual
    )
    run = Run(pricing=pricing, schedule=schedule)
    dense = pricing.value(pricing.dense)
    for cycle in range(3):
        limit = dense * 0.5 ** ((cycle + 1) / 3) if gradual else dense / 2
        omega = 0.4 * (1 + np.cos(np.pi * cycle / 3)) / 2
        run.steps(batches(2, seed=cycle))
        pruned = run.pruner.widths
        least = pricing.value(pricing.smallest)
        assert pricing.value(pruned) <= max((1 - omega) * limit, least * 1.00001)
        held = {group: set(channels) for group, channels in run.pruner.masks.kept.items()}
        run.steps(batches(3, seed=10 + cycle))
        grown = run.pruner.widths
        assert pricing.value(pruned) <= pricing.value(grown) <= limit
        assert all(held[group] <= set(channels) for group, channels in run.pruner.masks.kept.items())
        for group, width in grown.items():  # nothing that could be added was left out
            wider = min((w for w in pricing.widths[group] if w > width), default=None)
            if wider:
                assert pricing.value({**grown, group: wider}) > limit
    assert [record["call"] for record in run.pruner.grown] == [5, 10, 15]
    assert run.pruner.grown[0]["grown"] > 0
    run.steps(batches(2, seed=20))
    assert run.pruner.finished


def test_the_best_of_what_was_explored_is_grown() -> None:
    """By the saliency of the exploration's own steps, collected again here; the rest is zero afterwards."""
    run, data = Run(), batches(SCHEDULE.steps)
    begin = SCHEDULE.importance_steps + SCHEDULE.accuracy_steps
    run.steps(data[:begin])
    active, criterion = run.pruner.active, criteria()["taylor-bn"]
    sums = {group.name: torch.zeros(group.channels, dtype=torch.float64) for group in NETWORK.cuttable}
    for images, labels in data[begin : SCHEDULE.cycle]:
        run.optimizer.zero_grad()
        functional.cross_entropy(run.model(images), labels).backward()
        run.optimizer.step()
        parameters = dict(run.model.named_parameters())
        gradients = {name: parameter.grad for name, parameter in parameters.items()}
        for group in NETWORK.cuttable:
            sums[group.name] += criterion.score(group, parameters, gradients).double()
        run.pruner.step(run.optimizer)
    kept = run.pruner.masks.kept
    for name, channels in kept.items():
        new = sorted(set(channels) - set(active[name]))
        left = sorted(set(range(len(sums[name]))) - set(channels))
        if new and left:
            assert sums[name][new].min() >= sums[name][left].max()
    assert any(set(kept[name]) > set(active[name]) for name in kept)
    after, off = run.state(), off_positions(run.model, kept)
    for name, mask in off.items():
        assert torch.equal(after[name][mask], torch.full_like(after[name][mask], float(name.endswith("running_var"))))


@each_optimizer
def test_finish_is_the_masked_network_inside_the_budget(optimizer: str) -> None:
    run = Run(optimizer).steps(batches(SCHEDULE.steps))
    assert run.pruner.finished
    run.model.eval()
    plan, smaller = run.pruner.finish()
    assert plan.used["macs"] <= run.limit
    assert plan.used["macs"] == pytest.approx(MACS.value(plan.widths))
    reference = masked(run.model, NETWORK, plan.kept)
    for images, _ in batches(2, seed=9):
        with torch.no_grad():
            torch.testing.assert_close(smaller(images), reference(images), rtol=1e-4, atol=1e-5)
    assert trace(smaller, EXAMPLE).dense_widths == {**NETWORK.dense_widths, **plan.widths}


# In and at the ends of all five stages, of both cycles, and at the end.
STOPS = [("sgd", "widths", stop) for stop in (1, 3, 4, 5, 6, 8, 9, 10, 15, 18, 20)]
STOPS += [(*kind, stop) for kind in (("adamw", "widths"), ("sgd", "blocks")) for stop in (4, 6, 8, 9)]
PRICINGS = {"widths": (MACS, 0.5), "blocks": (BLOCKS, 0.1)}


@functools.cache
def whole(optimizer: str, kind: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The plan of an uninterrupted run, and the model's state before it is cut."""
    run = Run(optimizer, *PRICINGS[kind]).steps(batches(SCHEDULE.steps))
    return run.pruner.finish()[0], run.state()


@pytest.mark.parametrize(("optimizer", "kind", "stop"), STOPS)
def test_continuing_from_a_checkpoint_ends_in_the_same_plan(
    tmp_path: Path, optimizer: str, kind: str, stop: int
) -> None:
    data, (expected, state) = batches(SCHEDULE.steps), whole(optimizer, kind)
    first = Run(optimizer, *PRICINGS[kind]).steps(data[:stop])
    left = {"model": first.state(), "optimizer": first.optimizer.state_dict(), "pruner": first.pruner.state_dict()}
    save_checkpoint(tmp_path / "state", left)
    saved = load_checkpoint(tmp_path / "state")
    second = Run(optimizer, *PRICINGS[kind], seed=7)
    second.model.load_state_dict(saved["model"])
    second.optimizer.load_state_dict(saved["optimizer"])
    second.pruner.load_state_dict(saved["pruner"])
    plan, _ = second.steps(data[stop:]).pruner.finish()
    assert (plan.widths, plan.kept, plan.cuts) == (expected.widths, expected.kept, expected.cuts)
    assert all(torch.equal(value, state[name]) for name, value in second.state().items())


def test_blocks_that_were_removed_are_explored_and_may_come_back() -> None:
    (block,) = NETWORK.blocks
    schedule = ExploreSchedule(
        cycles=3, importance_steps=2, accuracy_steps=1, exploration_steps=2, fraction=0.5, gradual=False
    )
    used = 1.2 * BLOCKS.value(BLOCKS.smallest) / BLOCKS.value(BLOCKS.dense)
    run = Run(pricing=BLOCKS, used=used, schedule=schedule).steps(batches(2))
    assert run.pruner.widths[block.presence] == 0
    run.steps(batches(1))
    assert run.pruner.exploring
    images = batches(1, seed=3)[0][0]
    run.model.eval()
    with torch.no_grad():
        stream = run.model.stem(images)
        without = run.model.fc(torch.sigmoid(run.model.last(stream)).mean((2, 3)))
        assert not torch.allclose(run.model(images), without)  # the block speaks
    run.model.train()
    body = {name: value for name, value in run.state().items() if name.startswith("body")}
    run.steps(batches(1, seed=4))
    assert all(not torch.equal(value, run.state()[name]) for name, value in body.items())
    run.steps(batches(1, seed=5))
    assert BLOCKS.value(run.pruner.widths) <= run.limit
    generous = Run(pricing=BLOCKS, used=0.9, schedule=schedule)
    generous.pruner.masks.remove_block(block.name)
    generous.steps(batches(5))
    assert generous.pruner.widths[block.presence] > 0


def test_without_momentum_no_optimizer_is_needed() -> None:
    run, other = Run(), Run()
    for one in (run, other):
        one.optimizer = torch.optim.SGD(one.model.parameters(), 0.05)
    run.steps(batches(SCHEDULE.steps))
    for images, labels in batches(SCHEDULE.steps):
        other.optimizer.zero_grad()
        functional.cross_entropy(other.model(images), labels).backward()
        other.optimizer.step()
        other.pruner.step()
    assert all(torch.equal(value, other.state()[name]) for name, value in run.state().items())


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="cycles=0"):
        ExploreSchedule(cycles=0)
    with pytest.raises(InputError, match="fraction=1"):
        ExploreSchedule(fraction=1)
    with pytest.raises(InputError, match="at least 16 minibatches, and there are 15"):
        ExploreSchedule.of(15)
    assert ExploreSchedule.of(16).steps == 16
    assert ExploreSchedule.of(10_000).importance_steps == 150
    with pytest.raises(InfeasibleError):
        Run(used=1e-6)
