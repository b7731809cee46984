"""SRigL, against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.regrow import Rule, SparsePruner, SRigL, layer_counts

from .contract import STEPS, RuleContract
from .models import MODELS, OPTIMIZERS, batches, fit, learn


def neurons(module: nn.Module, weight: Tensor) -> list[list[int]]:
    """Flat places of the inputs of every output neuron, channels of a kernel position together."""
    places = torch.arange(weight.numel()).view(weight.shape)
    if isinstance(module, nn.Embedding):
        return [places[:, i].tolist() for i in range(weight.shape[1])]
    found = []
    if isinstance(module, nn.ConvTranspose2d):
        for group in places.chunk(module.groups):
            found += [group[:, i] for i in range(weight.shape[1])]
    else:
        found = list(places)
    return [(part.movedim(0, -1) if part.ndim > 1 else part).flatten().tolist() for part in found]


def slow_update(
    rows: list[list[int]],
    weight: list[float],
    gradient: list[float],
    active: set[int],
    share: float,
    budget: int,
    ablate: bool,
) -> set[int]:
    """One layer, by the steps of section 3, place by place. Places are in the order of the rows."""
    order = [place for row in rows for place in row]
    there = [place for place in order if place in active]
    out = int(share * len(there))

    def highest(places: list[int], score: list[float], count: int) -> list[int]:
        return sorted(places, key=lambda i: -abs(score[i]))[:count]

    alive = [row for row in rows if active & set(row)]
    if ablate:
        absent = [place for row in alive for place in row if place not in active]
        salient = set(highest(there, weight, len(there) - out)) | set(highest(absent, gradient, out))
        fan_in = max(len(active & set(row)) for row in rows)
        enough = [row for row in alive if len(salient & set(row)) >= max(1, int(0.3 * fan_in))]
        needed = math.ceil(budget / len(rows[0]))
        if len(enough) < needed:
            ranked = sorted(alive, key=lambda row: -len(salient & set(row)))[:needed]
            enough = [row for row in alive if row in ranked]
        alive = enough
    fan_in = min(budget // len(alive), len(rows[0]))
    mine = [place for row in alive for place in row if place in active]
    stay = set(highest(mine, weight, len(there) - out))
    found: set[int] = set()
    for row in alive:
        kept = highest([place for place in row if place in stay], weight, fan_in)
        rest = [place for place in row if place not in kept]
        found |= set(kept) | set(highest(rest, gradient, fan_in - len(kept)))
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("density", [0.1, 0.4])
def test_ablate_drop_and_fill_up(kind: str, optimizer: str, density: float) -> None:
    model = MODELS[kind]()
    adjust = OPTIMIZERS[optimizer](model.parameters())
    rule = SRigL(density=density, steps=40, interval=4, fraction=0.4)
    pruner = SparsePruner(model, adjust, rule)
    budget = layer_counts("erk", pruner.masks.shapes, density)
    ablated = 0
    for step, batch in enumerate(batches(kind, 40), start=1):
        learn(model, batch)
        adjust.step()
        old = pruner.masks.state_dict()
        values = {name: weight.parameter.detach().clone() for name, weight in pruner.masks.weights.items()}
        pruner.step()
        share = 0.2 * (1 + math.cos(math.pi * step / 30))
        for name, weight in pruner.masks.weights.items() if rule.due(step) else ():
            rows = neurons(model.get_submodule(name.rpartition(".")[0]), weight.parameter)
            before = set(old[name].flatten().nonzero().flatten().tolist())
            expected = slow_update(
                rows,
                values[name].flatten().tolist(),
                weight.parameter.grad.flatten().tolist(),
                before,
                share,
                budget[name],
                name != list(pruner.masks.weights)[-1],
            )
            found = set(pruner.masks.active[name].flatten().nonzero().flatten().tolist())
            assert found == expected, (step, name)
            assert len({len(found & set(row)) for row in rows} - {0}) == 1
            ablated += sum(bool(before & set(row)) and not found & set(row) for row in rows)
            assert not any(found & set(row) and not before & set(row) for row in rows)  # none comes back
            kept = pruner.masks.active[name] & old[name]
            assert torch.equal(weight.parameter, torch.where(kept, values[name], 0.0))
        adjust.zero_grad()
    assert ablated > 0 or density == 0.4


def test_masks_start_with_a_constant_fan_in() -> None:
    for kind, density in (("convolutions", 0.3), ("attention", 0.3), ("attention", 0.02)):
        model = MODELS[kind]()
        pruner = SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), SRigL(steps=10, density=density))
        counts = layer_counts("erk", pruner.masks.shapes, density)
        for name, mask in pruner.masks.active.items():
            rows = neurons(model.get_submodule(name.rpartition(".")[0]), mask)
            fan_ins = sorted(sum(mask.flatten()[row].tolist()) for row in rows)
            active = [fan_in for fan_in in fan_ins if fan_in]
            assert len(active) == min(len(rows), counts[name])
            assert set(active) == ({counts[name] // len(active)} if active else set())


def test_the_last_layer_keeps_its_neurons() -> None:
    model = MODELS["convolutions"]()
    with torch.no_grad():
        model.fc.weight[1:] *= 1e-3  # not one of them salient
    adjust = torch.optim.SGD(model.parameters(), 0.0)
    pruner = SparsePruner(model, adjust, SRigL(steps=40, interval=4, density=0.3, fraction=0.0))
    for _ in fit(model, adjust, pruner, batches("convolutions", 40)):
        pass
    assert pruner.masks.active["fc.weight"].any(1).all()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="srigl: salient is 2"):
        SRigL(steps=10, salient=2)


class TestSRigL(RuleContract):
    below = 0.12  # up to an input per neuron, of eight

    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return SRigL(steps=steps, interval=4, density=0.4, **settings)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("density", [0.02, 0.3])
def test_a_pretrained_model_begins_with_the_largest_weights_of_its_largest_neurons(kind: str, density: float) -> None:
    model = MODELS[kind]()
    before = {name: parameter.detach().clone().flatten() for name, parameter in model.named_parameters()}
    rule = SRigL(density=density, steps=STEPS, initial="magnitude")
    pruner = SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), rule)
    for name, count in layer_counts("erk", pruner.masks.shapes, density).items():
        module, size = model.get_submodule(name.rpartition(".")[0]), before[name].abs().tolist()
        rows = neurons(module, model.get_parameter(name))
        largest = sorted(rows, key=lambda row: -sum(size[place] for place in row))[:count]
        fan_in = count // len(largest)
        expected = {place for row in largest for place in sorted(row, key=lambda place: -size[place])[:fan_in]}
        assert set(pruner.masks.active[name].flatten().nonzero().ravel().tolist()) == expected
