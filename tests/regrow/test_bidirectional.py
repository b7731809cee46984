"""Bidirectional pruning-regrowth against its definitions, written out slowly."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.errors import InputError, ModelError
from hwprune.regrow import BidirectionalPruner, BidirectionalSchedule, DenseReference, layer_counts
from hwprune.regrow.similarity import output_maps, similarities


class Small(nn.Module):
    """Convolutions of three kinds, one weight used twice, maps of 8 × 8, 9 × 9 and 1 × 1."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.again = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.again.weight = self.grouped.weight
        self.up = nn.ConvTranspose2d(8, 6, 2, padding=0, groups=2)
        self.point = nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.again(torch.relu(self.grouped(x))))
        x = torch.relu(self.up(x)).mean((2, 3), keepdim=True)
        return self.fc(self.point(x).flatten(1))


WEIGHTS = ("stem.weight", "grouped.weight", "up.weight", "point.weight", "fc.weight")


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(0, 3, (6,), generator=generator) for _ in range(count)]
    return [(torch.randn(6, 2, 8, 8, generator=generator) + one.view(-1, 1, 1, 1), one) for one in labels]


def run(model: nn.Module) -> None:
    for images, _ in batches(3, seed=5):
        model(images)


def reference(model: nn.Module, **settings: Any) -> DenseReference:
    dense = DenseReference(model, **settings)
    for images, labels in batches(3, seed=9):
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        dense.update(model)
    model.zero_grad()
    dense.observe(model, run)
    return dense


class Run:
    """A model, its optimizer and its pruner, one step at a time."""

    def __init__(
        self,
        budget: float = 200,
        *,
        model: nn.Module | None = None,
        dense: DenseReference | None = None,
        size: Callable[[Mapping[str, Tensor]], float] | None = None,
        **schedule: Any,
    ) -> None:
        self.model = model or Small()
        self.dense = dense or reference(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        settings = BidirectionalSchedule(**{"density": 0.1, "prune_steps": 3, "regrow_steps": 2, **schedule})
        self.pruner = BidirectionalPruner(
            self.model, self.optimizer, self.dense, budget=budget, schedule=settings, size=size, run=run
        )

    def step(self, data: tuple[Tensor, Tensor]) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(data[0]), data[1]).backward()
        self.optimizer.step()
        self.pruner.step()

    @property
    def count(self) -> int:
        return sum(int(mask.sum()) for mask in self.pruner.masks.active.values())

    def moments(self, name: str) -> list[Tensor]:
        state = self.optimizer.state[self.model.get_parameter(name)]
        return [state["exp_avg"], state["exp_avg_sq"]]


@pytest.mark.parametrize("kind", ["global", "uniform", "erk"])
def test_magnitude(kind: Any) -> None:
    test = Run(density=0.2, prune_by=kind)
    before = {name: test.model.get_parameter(name).detach().abs() for name in WEIGHTS}
    before = {name: value.clone() for name, value in before.items()}
    test.pruner.advance()
    active = test.pruner.masks.active
    assert test.count == int(sum(value.numel() for value in before.values()) * 0.2)
    if kind == "global":
        kept = torch.cat([before[name][active[name]] for name in WEIGHTS])
        assert kept.min() > max(before[name][~active[name]].max() for name in WEIGHTS)
    else:
        counts = layer_counts(kind, {name: tuple(value.shape) for name, value in before.items()}, 0.2)
        for name in WEIGHTS:
            assert int(active[name].sum()) == counts[name]
            if 0 < counts[name] < active[name].numel():
                assert before[name][active[name]].min() > before[name][~active[name]].max()


def test_the_schedule() -> None:
    test = Run(200, density=0.05, prune_rounds=2, regrow_rounds=3)
    total = test.pruner.masks.total
    halfway, lowest = int(total * 0.05**0.5), int(total * 0.05)
    thirds = [lowest + (200 - lowest) * part / 3 for part in (1, 2)]
    expected = [halfway] * 3 + [lowest] * 3 + [int(thirds[0])] * 2 + [int(thirds[1])] * 2 + [200] * 3
    due = []
    for data, count in zip(batches(len(expected)), expected, strict=True):
        due.append(test.pruner.due)
        test.step(data)
        assert test.count == count
        for name, mask in test.pruner.masks.active.items():
            assert not test.model.get_parameter(name)[~mask].any()
            assert not any(value[~mask].any() for value in test.moments(name))
    assert [place for place, one in enumerate(due) if one] == [0, 3, 6, 8, 10]
    assert test.pruner.finished
    assert [update.step for update in test.pruner.history] == [1, 4, 7, 9, 11]
    assert [update.grown for update in test.pruner.history] == [0, 0, *np.diff([lowest, *map(int, thirds), 200])]
    with pytest.raises(InputError, match="all rounds"):
        test.pruner.advance()


@pytest.mark.parametrize("allocation", ["proportional", "greedy", "global"])
@pytest.mark.parametrize("initial", ["dense", "zero", "mru"])
def test_values_of_what_comes_back(initial: Any, allocation: Any) -> None:
    test, data = Run(initial=initial, allocation=allocation, prune_rounds=2), batches(7)
    dense = {name: test.model.get_parameter(name).detach().clone() for name in WEIGHTS}
    used = dict(dense)
    for place, batch in enumerate(data[:6]):
        test.optimizer.zero_grad()
        functional.cross_entropy(test.model(batch[0]), batch[1]).backward()
        test.optimizer.step()
        active = dict(test.pruner.masks.active)
        stepped = {name: test.model.get_parameter(name).detach().clone() for name in WEIGHTS}
        used = {name: torch.where(active[name], stepped[name], used[name]) for name in WEIGHTS}
        test.pruner.step()
        assert len(test.pruner.history) == 1 + place // 3
    test.step(data[6])
    new = {name: test.pruner.masks.active[name] & ~active[name] for name in WEIGHTS}
    assert sum(int(mask.sum()) for mask in new.values()) == 200 - int(test.pruner.masks.total * 0.1)
    for name, mask in new.items():
        expected = {"dense": dense[name], "mru": used[name], "zero": torch.zeros_like(dense[name])}[initial]
        assert torch.equal(test.model.get_parameter(name)[mask], expected[mask]), name
        assert not any(value[mask].any() for value in test.moments(name))


def test_allocation_goes_by_the_similarity_of_the_pruned_network() -> None:
    test = Run(allocation="greedy")
    test.pruner.advance()
    maps = output_maps(test.model, WEIGHTS, run)
    active = dict(test.pruner.masks.active)
    test.pruner.advance()
    expected = similarities(test.dense.maps, maps)
    assert test.pruner.similarity == expected
    lowest = min(expected, key=lambda name: expected[name])
    grown = {name: int(mask.sum()) - int(active[name].sum()) for name, mask in test.pruner.masks.active.items()}
    assert grown[lowest] == min(sum(grown.values()), int((~active[lowest]).sum()))


def bitmask_bytes(active: Mapping[str, Tensor]) -> float:
    return sum(-(-mask.numel() // 8) + 4 * int(mask.sum()) for mask in active.values())


@pytest.mark.parametrize("allocation", ["proportional", "greedy", "global"])
@pytest.mark.parametrize("budget", [700, 701, 702, 703, 704])
def test_a_budget_of_bytes_is_filled_to_less_than_one_weight(budget: int, allocation: Any) -> None:
    test = Run(budget, size=bitmask_bytes, allocation=allocation, regrow_rounds=3)
    while not test.pruner.finished:
        test.pruner.advance()
    taken = bitmask_bytes(test.pruner.masks.active)
    assert budget - 4 < taken <= budget


@pytest.mark.parametrize("initial", ["dense", "mru"])
@pytest.mark.parametrize("stop", range(1, 9))
def test_continued_in_the_middle_bit_for_bit(stop: int, initial: Any) -> None:
    settings = {"initial": initial, "allocation": "proportional", "prune_rounds": 2, "regrow_rounds": 2}
    data = batches(10)
    whole = Run(**settings)
    for batch in data:
        whole.step(batch)
    first = Run(**settings)
    for batch in data[:stop]:
        first.step(batch)
    saved = copy.deepcopy([part.state_dict() for part in (first.model, first.optimizer, first.pruner, first.dense)])
    for batch in data[stop:]:  # goes on: what was saved must not
        first.step(batch)
    model = Small(seed=3)
    model.load_state_dict(saved[0])
    dense = DenseReference(model)
    dense.load_state_dict(saved[3])
    second = Run(model=model, dense=dense, **settings)
    second.optimizer.load_state_dict(saved[1])
    second.pruner.load_state_dict(saved[2])
    for batch in data[stop:]:
        second.step(batch)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for name, mask in whole.pruner.masks.active.items():
        assert torch.equal(mask, second.pruner.masks.active[name])
    assert whole.pruner.history == second.pruner.history


def test_a_state_of_something_else_is_refused() -> None:
    state = Run(200).pruner.state_dict()
    with pytest.raises(InputError, match="budget=200"):
        Run(210).pruner.load_state_dict(state)
    with pytest.raises(InputError, match="initial='zero'"):
        Run(200, initial="mru").pruner.load_state_dict(state)
    other = DenseReference(nn.Conv2d(2, 8, 3))
    with pytest.raises(InputError, match=r"does not fit the model: fc\.weight"):
        other.load_state_dict(reference(Small()).state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0}, "density is 0"),
        ({"density": 1}, "density is 1"),
        ({"prune_by": "snip"}, "prune_by is 'snip'"),
        ({"allocation": "fair"}, "allocation is 'fair'"),
        ({"initial": "kaiming"}, "initial is 'kaiming'"),
        ({"regrow_rounds": 0}, "regrow_rounds is 0"),
        ({"prune_steps": 0}, "prune_steps is 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        BidirectionalSchedule(**settings)
    assert "must be" in error.value.hint


def test_budgets_out_of_reach() -> None:
    total = sum(Small().get_parameter(name).numel() for name in WEIGHTS)
    with pytest.raises(InputError, match="nothing to prune"):
        Run(total)
    with pytest.raises(InputError, match="nothing could grow back"):
        Run(int(total * 0.1))
    test = Run(int(total * 0.1) * 4 + 10, size=bitmask_bytes)
    with pytest.raises(InputError, match="nothing could grow back"):
        test.pruner.advance()


def test_what_the_reference_lacks() -> None:
    model = Small()
    empty = DenseReference(model)
    with pytest.raises(InputError, match="no saliency"):
        Run(model=model, dense=empty)
    with pytest.raises(InputError, match="has a gradient"):
        empty.update(model)
    blind = reference(model)
    blind.maps = {}
    with pytest.raises(InputError, match="compares outputs"):
        Run(model=model, dense=blind, allocation="greedy")
    with pytest.raises(InputError, match="does not fit the model"):
        Run(model=nn.Sequential(nn.Linear(4, 4)), dense=blind)


def test_values_that_are_not_finite() -> None:
    model = Small()
    dense = DenseReference(model)
    for images, labels in batches(2):
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        model.fc.weight.grad[0, 0] = torch.inf
        dense.update(model)
    assert (dense.batches, dense.skipped) == (0, 2)
    with pytest.raises(InputError, match="2 batches had NaN"):
        dense.saliency()
    with torch.no_grad():
        model.fc.weight += 1
    with pytest.raises(InputError, match="not what it was"):
        dense.update(model)
    test = Run()
    with torch.no_grad():
        test.model.stem.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="diverged"):
        test.pruner.advance()
    with pytest.raises(InputError, match="not finite"):
        DenseReference(test.model)
    with pytest.raises(InputError, match="outputs of"):
        output_maps(test.model, WEIGHTS, run)


def test_models_that_cannot_be_masked() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ModelError, match="parametrization"):
        DenseReference(model)


def test_layers_that_are_left_out_stay_dense() -> None:
    model = Small()
    dense = reference(model, first_dense=True, exclude=["fc"])
    test = Run(150, model=model, dense=dense)
    while not test.pruner.finished:
        test.pruner.advance()
    assert set(test.pruner.masks.active) == {"grouped.weight", "up.weight", "point.weight"}
    assert test.count == 150
    assert bool(model.stem.weight.all())
    assert bool(model.fc.weight.all())
