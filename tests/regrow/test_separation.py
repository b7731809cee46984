"""The penalty that separates weights, against its definition written out slowly."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.regrow import SeparationPenalty, SparseMasks, hyperspherical, plain, prune_and_recover

from .test_recoverable import LAYERS, Net, filters, trained


def slow_penalty(model: nn.Module, density: float, scope: str, far: float) -> float:
    """Filter by filter, from the definition."""
    layers = [filters(model.get_submodule(name)) for name in LAYERS if name != "tied"]
    values = [[[abs(float(v)) for v in one] for one in layer] for layer in layers]

    def least(numbers: list[float]) -> float:
        return sorted(numbers, reverse=True)[max(1, int(len(numbers) * density + 1e-6)) - 1]

    everything = [v for layer in values for one in layer for v in one]
    total = 0.0
    for layer in values:
        for one in layer:
            together = {"global": everything, "layer": [v for each in layer for v in each], "filter": one}[scope]
            threshold = least(together)
            k = sum(v >= threshold for v in one)
            for v in one:
                total += (far * (v - 1 / math.sqrt(k)) ** 2 if v >= threshold else v * v) / len(layer)
    return total


@pytest.mark.parametrize("scope", ["filter", "layer", "global"])
@pytest.mark.parametrize(("density", "far"), [(0.3, 1.0), (0.6, 0.2)])
def test_the_penalty(scope: Any, density: float, far: float) -> None:
    model = trained()
    penalty = SeparationPenalty(model, density=density, scope=scope, far=far)
    assert penalty.penalty().item() == pytest.approx(slow_penalty(model, density, scope, far), rel=1e-4)


def test_with_equal_terms_it_is_the_distance_to_the_nearest_flat_vector() -> None:
    model = hyperspherical(nn.Sequential(nn.Linear(12, 1)))
    row = model[0].weight.detach().flatten()
    kept = row.abs() >= row.abs().sort(descending=True).values[3]
    target = torch.where(kept, row.sign() / 2, 0.0)
    found = SeparationPenalty(model, density=4 / 12).penalty().item()
    assert found == pytest.approx(2 * (1 - float(row @ target)), rel=1e-5)


def test_its_gradient_takes_the_choice_as_given() -> None:
    model = hyperspherical(nn.Sequential(nn.Linear(6, 2, bias=False)).double())
    weight = model[0].parametrizations.weight.original
    kept = model[0].weight.detach().abs() >= model[0].weight.detach().abs().flatten().sort(descending=True).values[5]

    def fixed(raw: Tensor) -> Tensor:
        unit = raw / raw.norm(dim=1, keepdim=True)
        goal = kept.sum(1, keepdim=True).clamp_min(1).rsqrt()
        return torch.where(kept, (unit.abs() - goal) ** 2, unit**2).sum(1).mean()

    SeparationPenalty(model, density=0.5).penalty().backward()
    expected = torch.autograd.functional.jacobian(fixed, weight.detach())
    torch.testing.assert_close(weight.grad, expected)


def test_the_penalty_separates_weights() -> None:
    """With nothing else in the loss, weights come to lie at zero and at one magnitude, and pruning costs nothing."""
    model = hyperspherical(nn.Sequential(nn.Linear(16, 8)))
    penalty = SeparationPenalty(model, density=0.25, scope="filter", strength=1.0, ramp=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(400):
        optimizer.zero_grad()
        penalty.loss().backward()
        optimizer.step()
        penalty.step()
    folded = plain(model)
    magnitudes = folded[0].weight.detach().abs()
    masks = SparseMasks(folded)
    masks.keep_largest(32)
    assert magnitudes[~masks.active["0.weight"]].max() < 1e-3
    assert magnitudes[masks.active["0.weight"]].min() > 0.499
    x, before = torch.randn(4, 16), copy.deepcopy(folded)
    prune_and_recover(masks, "none")
    torch.testing.assert_close(folded(x), before(x), rtol=1e-2, atol=1e-2)


def test_a_filter_that_keeps_nothing_is_not_moved() -> None:
    model = hyperspherical(nn.Sequential(nn.Linear(4, 2, bias=False)))
    weight = model[0].parametrizations.weight.original
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, 1, 1, 1], [1, 3, 0.5, 0.1]]))
    penalty = SeparationPenalty(model, density=1 / 8).penalty()
    penalty.backward()
    torch.testing.assert_close(weight.grad[0], torch.zeros(4), rtol=0, atol=1e-6)
    assert weight.grad[1].isfinite().all()
    assert weight.grad[1].any()


def test_the_ramp() -> None:
    model = trained()
    penalty = SeparationPenalty(model, density=0.3, strength=0.8, warmup=2, ramp=4)
    full, seen = penalty.penalty().item(), []
    for step in range(9):
        seen.append(penalty.loss().item() / full)
        assert penalty.finished == (step >= 6)
        penalty.step()
    assert seen == pytest.approx([0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    again = SeparationPenalty(model, density=0.3, strength=0.8, warmup=2, ramp=4)
    again.load_state_dict({"calls": 3})
    assert again.loss().item() == pytest.approx(0.2 * full)
    assert SeparationPenalty(model, density=0.3, strength=0.5, ramp=0).loss().item() == pytest.approx(0.5 * full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0}, "density is 0"),
        ({"density": 1.0}, r"density is 1\.0"),
        ({"scope": "model"}, "scope is 'model'"),
        ({"strength": -1}, "strength is -1"),
        ({"strength": math.nan}, "strength is nan"),
        ({"ramp": -1}, "ramp is -1"),
    ],
)
def test_settings_of_the_penalty(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SeparationPenalty(hyperspherical(Net()), **{"density": 0.5, **settings})
