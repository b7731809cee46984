"""RigL and SET, against their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.regrow import SET, GraNet, RigL, Rule, SparsePruner, layer_counts

from .contract import STEPS, RuleContract
from .models import MODELS, OPTIMIZERS, attention, batches, convolutions, fit
from .slow import Seen, best, compare, flat, magnitudes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_drop_the_smallest_grow_the_steepest(kind: str, optimizer: str, decay: Any) -> None:
    rule = RigL(density=0.3, steps=40, interval=4, fraction=0.4, decay=decay)

    def expect(seen: Seen) -> dict[str, set[int]]:
        share = 0.4 if decay == "constant" else 0.2 * (1 + math.cos(math.pi * seen.step / 30))
        found = {}
        for name, values in seen.values.items():
            places = seen.places(name)
            out = int(share * len(places))
            kept = best(places, magnitudes(values), len(places) - out)
            free = [i for i in range(len(values)) if i not in kept]
            found[name] = kept | best(free, magnitudes(seen.gradients[name]), out)
        return found

    pruner = compare(rule, expect, kind=kind, optimizer=optimizer, steps=40)
    assert [update.step for update in pruner.history] == [4, 8, 12, 16, 20, 24, 28]
    assert all(update.grown > 0 for update in pruner.history[:3])


@pytest.mark.parametrize("kind", MODELS)
def test_set_grows_anywhere(kind: str) -> None:
    rule = SET(density=0.3, steps=200, interval=2, fraction=0.3, decay="constant", until=1.0)
    model = MODELS[kind]()
    adjust = OPTIMIZERS["sgd"](model.parameters())
    pruner = SparsePruner(model, adjust, rule)
    ever = pruner.masks.state_dict()
    for _ in fit(model, adjust, pruner, batches(kind, 200)):
        ever = {name: mask | pruner.masks.active[name] for name, mask in ever.items()}
    # a hundred draws, each of a tenth of what is free or so
    assert all(int(mask.sum()) > 0.97 * mask.numel() for mask in ever.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_set_drops_the_smallest(optimizer: str) -> None:
    model = convolutions()
    adjust = OPTIMIZERS[optimizer](model.parameters())
    rule = SET(density=0.3, steps=30, interval=3, fraction=0.3, until=1.0)
    pruner = SparsePruner(model, adjust, rule)
    start = pruner.masks.counts
    for step, batch in enumerate(batches("convolutions", 30), start=1):
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        adjust.step()
        old = pruner.masks.state_dict()
        values = {name: weight.parameter.detach().clone() for name, weight in pruner.masks.weights.items()}
        pruner.step()
        adjust.zero_grad()
        share = 0.15 * (1 + math.cos(math.pi * step / 30))
        for name, mask in pruner.masks.active.items() if rule.due(step) else ():
            out = int(share * int(old[name].sum()))
            order = values[name].abs()[old[name]].sort().values
            gone = old[name] & ~mask
            assert int(gone.sum()) <= out
            assert not gone.any() or values[name].abs()[gone].max() <= order[out - 1]
            assert torch.equal(pruner.masks.weights[name].parameter, torch.where(mask & old[name], values[name], 0.0))
    assert pruner.masks.counts == start


def test_start_middle_and_end_of_the_exchange() -> None:
    rule = RigL(steps=1000, fraction=0.3, until=0.75)
    assert [rule.rate(step) for step in (0, 375, 750, 751)] == pytest.approx([0.3, 0.15, 0, 0])
    assert RigL(steps=1000, decay="constant").rate(700) == 0.3
    assert [rule.due(step) for step in (99, 100, 700, 800)] == [False, True, True, False]
    assert RigL(steps=1000, interval=250).due(750)


def test_what_draws_a_choice_is_seed_step_and_name() -> None:
    def masks(seed: int, weights: int) -> dict[str, torch.Tensor]:
        model = attention(weights)
        adjust = OPTIMIZERS["sgd"](model.parameters())
        return SparsePruner(model, adjust, SET(steps=10), seed=seed).masks.active

    one = masks(1, 0)
    assert all(torch.equal(mask, masks(1, 5)[name]) for name, mask in one.items())  # not the weights
    assert any(not torch.equal(mask, masks(2, 0)[name]) for name, mask in one.items())


class Idle(nn.Module):
    """A layer that this loss does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_layer_without_a_gradient_keeps_its_mask() -> None:
    torch.manual_seed(0)
    model = Idle()
    adjust = OPTIMIZERS["sgd"](model.parameters())
    pruner = SparsePruner(model, adjust, RigL(steps=20, interval=2, density=0.5))
    before = pruner.masks.state_dict()
    for _ in range(6):
        model(torch.randn(4, 8)).square().sum().backward()
        adjust.step()
        pruner.step()
        adjust.zero_grad()
    assert torch.equal(pruner.masks.active["idle.weight"], before["idle.weight"])
    assert not torch.equal(pruner.masks.active["used.weight"], before["used.weight"])


def test_sparse_gradients_of_an_embedding() -> None:
    torch.manual_seed(0)
    model = nn.EmbeddingBag(20, 6, sparse=True)
    adjust = torch.optim.SGD(model.parameters(), 0.1)
    pruner = SparsePruner(model, adjust, RigL(steps=20, interval=2, density=0.3))
    for _ in range(4):
        model(torch.randint(5, (3, 4))).square().sum().backward()
        adjust.step()
        pruner.step()
        adjust.zero_grad()
    grown = pruner._history.grown["weight"]
    assert grown.any()
    assert not grown[5:].any()  # tokens that were never seen have no gradient


@pytest.mark.parametrize("settings", [{"fraction": 1.1}, {"decay": "linear"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(InputError, match=f"rigl: {name} is {value!r}"):
        RigL(steps=10, **settings)


class TestRigL(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return RigL(steps=steps, interval=4, density=0.3, **settings)


class TestSET(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return SET(steps=steps, interval=4, density=0.3, **settings)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rule", [RigL, SET, GraNet])
def test_a_pretrained_model_begins_with_its_largest_weights(kind: str, rule: type[Rule]) -> None:
    model = MODELS[kind]()
    sizes = {name: magnitudes(flat(parameter)) for name, parameter in model.named_parameters()}
    share = {"initial_density": 0.3} if rule is GraNet else {}
    settings: dict[str, Any] = {"density": 0.3, "steps": 40, "initial": "magnitude", **share}
    pruner = SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), rule(**settings))
    counts = layer_counts("erk", pruner.masks.shapes, 0.3)
    for name, mask in pruner.masks.active.items():
        found = {place for place, active in enumerate(flat(mask)) if active}
        assert found == best(list(range(mask.numel())), sizes[name], counts[name])
    with pytest.raises(InputError, match="initial is 'zero'"):
        rule(**{**settings, "initial": "zero"})
