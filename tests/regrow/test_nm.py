"""N:M sparsity, against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hwprune.errors import InputError, ModelError
from hwprune.regrow import NM, Rule, SparsePruner

from .contract import STEPS, RuleContract
from .models import OPTIMIZERS, attention, batches, convolutions, fit

Block = list[tuple[int, ...]]


def blocks(module: nn.Module, shape: tuple[int, ...], m: int) -> list[Block]:
    """Index tuples of every block: m neighbouring input channels of one output channel at one kernel position."""
    found = []
    transposed = isinstance(module, nn.ConvTranspose2d)
    groups = module.groups if transposed else 1
    inputs = shape[0] // groups if transposed else shape[1]
    for group in range(groups):
        for out in range(shape[1] if transposed else shape[0]):
            for position in torch.cartesian_prod(*(torch.arange(n) for n in shape[2:])) if len(shape) > 3 else [()]:
                where = tuple(int(i) for i in position)
                for first in range(0, inputs, m):
                    channels = range(first, first + m)
                    if transposed:
                        found.append([(group * inputs + channel, out, *where) for channel in channels])
                    else:
                        found.append([(out, channel, *where) for channel in channels])
    return found


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 4)])
def test_one_shot_keeps_the_largest_of_every_block(n: int, m: int) -> None:
    model = convolutions()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pruner = SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), NM(n=n, m=m, steps=10))
    assert pruner.finished
    assert set(pruner.masks.weights) == {"stem.weight", "grouped.weight", "fc.weight"} | (
        {"transposed.weight"} if 6 % m == 0 else set()
    )
    for name in pruner.masks.weights:
        module, value = model.get_submodule(name.removesuffix(".weight")), before[name]
        for block in blocks(module, tuple(value.shape), m):
            kept = sorted(block, key=lambda place: -abs(float(value[place])))[:n]
            assert {place for place in block if pruner.masks.active[name][place]} == set(kept)
            assert all(model.get_parameter(name)[place] == value[place] for place in kept)


def test_gradual_prunes_what_blocks_lose_anyway_smallest_first() -> None:
    model = attention()
    adjust = OPTIMIZERS["adamw"](model.parameters())
    rule = NM(steps=30, interval=5, gradual=True, until=0.8)
    pruner = SparsePruner(model, adjust, rule)
    for step, batch in enumerate(batches("attention", 30), start=1):
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        adjust.step()
        old = pruner.masks.state_dict()
        values = {name: weight.parameter.detach().clone() for name, weight in pruner.masks.weights.items()}
        pruner.step()
        adjust.zero_grad()
        density = 0.5 + 0.5 * (1 - min(step / 24, 1)) ** 3
        for name, mask in pruner.masks.active.items() if rule.due(step) else ():
            value = values[name].abs() * old[name]
            places = blocks(nn.Identity(), tuple(value.shape), 4)
            lost = [place for block in places for place in sorted(block, key=lambda i: -float(value[i]))[2:]]
            room = int(value.numel() * density + 1e-6) - value.numel() // 2
            kept = sorted((i for i in lost if old[name][i]), key=lambda i: -float(value[i]))[:room]
            expected = torch.ones_like(mask)
            for place in set(lost) - set(kept):
                expected[place] = False
            assert torch.equal(mask, expected)
    for mask in pruner.masks.active.values():
        assert all(sum(bool(mask[i]) for i in block) == 2 for block in blocks(nn.Identity(), tuple(mask.shape), 4))
    assert [update.step for update in pruner.history] == [5, 10, 15, 20, 24]


def test_what_has_no_blocks_stays_dense_and_is_named() -> None:
    model = attention()
    pruner = SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), NM(steps=10))
    assert pruner.masks.left_out == {"tokens.weight": "an embedding is looked up, not multiplied"}
    model = convolutions()
    pruner = SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), NM(steps=10))
    assert pruner.masks.left_out == {
        "depthwise.weight": "its 1 input channels are no multiple of 4",
        "transposed.weight": "its 6 input channels are no multiple of 4",
    }
    odd = nn.Conv2d(3, 8, 3)
    with pytest.raises(ModelError, match="its 3 input channels are no multiple of 4"):
        SparsePruner(odd, OPTIMIZERS["sgd"](odd.parameters()), NM(steps=10))


def test_torch_takes_the_result_for_2_of_4() -> None:
    """What torch's own layout of semi-structured matrices asks for, from its tests: two zeros in four of a row."""
    model = nn.Linear(64, 32)
    adjust = OPTIMIZERS["sgd"](model.parameters())
    pruner = SparsePruner(model, adjust, NM(steps=3))
    for _ in range(3):
        model(torch.randn(4, 64)).square().sum().backward()
        adjust.step()
        pruner.step()
    assert (model.weight.reshape(-1, 4).ne(0).sum(1) == 2).all()


@pytest.mark.parametrize("settings", [{"n": 4}, {"n": 0}, {"m": 1}, {"interval": 0}, {"begin": 0.7}, {"until": 2.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(InputError, match=f"nm: {name} is {value!r}"):
        NM(steps=10, **settings)


class TestOneShot(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return NM(steps=steps, **settings)


class TestGradual(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return NM(steps=steps, interval=4, gradual=True, **settings)


def test_gradual_and_one_shot_end_alike_if_weights_stand_still() -> None:
    found = []
    for gradual in (False, True):
        model = convolutions()
        adjust = torch.optim.SGD(model.parameters(), 0.0)
        pruner = SparsePruner(model, adjust, NM(steps=20, interval=3, gradual=gradual))
        for _ in fit(model, adjust, pruner, batches("convolutions", 20)):
            pass
        found.append(pruner.masks.active)
    assert all(torch.equal(mask, found[1][name]) for name, mask in found[0].items())
