"""Gradual magnitude pruning, against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hwprune.errors import InputError
from hwprune.regrow import GMP, Rule, SparsePruner, layer_counts

from .contract import STEPS, RuleContract
from .models import MODELS, OPTIMIZERS, attention
from .slow import Seen, best, compare, magnitudes


def sparsity(step: int, begin: int, end: int, initial: float, final: float) -> float:
    """Zhu & Gupta 2017, equation 1, as printed: with sparsities, from 0 at t_0 to s_f."""
    if step >= end:
        return final
    return final + (initial - final) * (1 - (max(step, begin) - begin) / (end - begin)) ** 3


def globally(seen: Seen, keep: int) -> dict[str, set[int]]:
    """The largest of all layers together."""
    everything = [(name, i) for name in seen.values for i in seen.places(name)]
    everything.sort(key=lambda place: -abs(seen.values[place[0]][place[1]]))  # a stable sort
    kept = everything[:keep]
    return {name: {i for layer, i in kept if layer == name} for name in seen.values}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("interval", "begin"), [(5, 0.0), (7, 0.2)])
def test_global(kind: str, optimizer: str, interval: int, begin: float) -> None:
    rule = GMP(density=0.1, steps=30, interval=interval, begin=begin, until=0.8)

    def expect(seen: Seen) -> dict[str, set[int]]:
        total = sum(seen.sizes().values())
        return globally(seen, int(total * (1 - sparsity(seen.step, int(30 * begin), 24, 0, 0.9)) + 1e-6))

    pruner = compare(rule, expect, kind=kind, optimizer=optimizer, steps=30)
    assert sum(pruner.masks.counts.values()) == pruner.masks.total // 10
    updates = [update.step for update in pruner.history]
    assert updates == ([5, 10, 15, 20, 24] if interval == 5 else [7, 14, 21, 24])


@pytest.mark.parametrize("scope", ["uniform", "erk"])
def test_layer_by_layer(scope: Any) -> None:
    rule = GMP(density=0.2, steps=20, interval=5, until=1.0, scope=scope)

    def expect(seen: Seen) -> dict[str, set[int]]:
        shapes = {name: tuple(parameter.shape) for name, parameter in attention().named_parameters()}
        density = 1 - sparsity(seen.step, 0, 20, 0, 0.8)
        counts = layer_counts(scope, {name: shapes[name] for name in seen.values}, density)
        return {name: best(seen.places(name), magnitudes(seen.values[name]), counts[name]) for name in seen.values}

    pruner = compare(rule, expect, kind="attention", optimizer="sgd", steps=20)
    assert pruner.masks.density == pytest.approx(0.2, abs=0.01)
    spread = max(pruner.density.values()) - min(pruner.density.values())
    assert spread < 0.01 if scope == "uniform" else spread > 0.1


def test_start_middle_and_end_of_the_curve() -> None:
    rule = GMP(density=0.1, steps=100, interval=10, begin=0.2, until=0.6)
    assert [rule.planned(step) for step in (0, 9, 20, 29)] == [1.0] * 4
    assert rule.planned(40) == rule.planned(49) == pytest.approx(0.1 + 0.9 * 0.125)
    assert [rule.planned(step) for step in (60, 61, 100)] == pytest.approx([0.1] * 3)


def test_one_shot() -> None:
    model = attention()
    adjust = OPTIMIZERS["sgd"](model.parameters())
    pruner = SparsePruner(model, adjust, GMP(density=0.5, steps=10, until=0.0))
    before = torch.cat([w.parameter.detach().abs().flatten() for w in pruner.masks.weights.values()])
    pruner.step()
    after = torch.cat([mask.flatten() for mask in pruner.masks.active.values()])
    assert after.sum() == len(before) // 2
    assert before[after].min() >= before[~after].max()
    assert pruner.finished


@pytest.mark.parametrize(
    "settings",
    [{"density": 0.0}, {"density": 1.1}, {"interval": 0}, {"until": 1.5}, {"begin": 0.6}, {"scope": "layers"}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(InputError, match=f"gmp: {name} is {value!r}"):
        GMP(steps=10, **settings)


class TestGMP(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return GMP(steps=steps, interval=4, density=0.2, until=0.7, **settings)
