"""IEE, against a training written down by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.regrow import IEE, Rule, SparsePruner, layer_counts

from .contract import STEPS, RuleContract
from .models import MODELS, OPTIMIZERS, batches, fit, learn
from .slow import best

H, J, Q = 4, 3, 5
RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-3


def by_hand(  # noqa: C901 - a training from start to end
    model: nn.Module, data: list[Any], counts: dict[str, int], active: dict[str, Tensor], until: int
) -> Any:
    """SGD with momentum on chosen elements only; gives (masks, stage) after every step.

    Elements that are not trained in a stage have neither weight decay nor momentum there, and keep theirs.
    """
    parameters = dict(model.named_parameters())
    value = {name: p.detach().clone() for name, p in parameters.items()}  # most recently used
    momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}
    cycle = H + J + Q
    for step, batch in enumerate(data):
        at, done = step % cycle, step // cycle * cycle
        searching = done + cycle <= until
        exploring = searching and at >= H + J
        if exploring and at == H + J:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            trial = {name: torch.zeros_like(value[name]) for name in active}
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(value[name] if name not in active or exploring else value[name] * active[name])
        learn(model, batch)
        for name, p in parameters.items():
            push = p.grad + DECAY * p.detach()
            if exploring:
                if name in active:
                    trial[name] = MOMENTUM * trial[name] + push
                    value[name] = torch.where(active[name], value[name], p.detach() - RATE * trial[name])
            else:
                momentum[name] = MOMENTUM * momentum[name] + push
                if name in active:
                    momentum[name] = momentum[name] * active[name]
                    value[name] = torch.where(active[name], p.detach() - RATE * momentum[name], value[name])
                else:
                    value[name] = p.detach() - RATE * momentum[name]
        model.zero_grad()
        if exploring:
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        if searching:
            share = 0.15 * (1 + math.cos(math.pi * done / until))
            for name in active:
                size, flat = value[name].numel(), value[name].flatten().abs().tolist()
                inside = active[name].flatten().tolist()
                count = int(share * counts[name])
                if at + 1 == H:
                    chosen = best([i for i in range(size) if inside[i]], flat, sum(inside) - count)
                elif at + 1 == cycle:
                    chosen = best([i for i in range(size) if not inside[i]], flat, count)
                    chosen |= {i for i in range(size) if inside[i]}
                else:
                    continue
                mask = torch.zeros(size, dtype=torch.bool)
                mask[list(chosen)] = True
                active[name] = mask.view(value[name].shape)
                momentum[name] = momentum[name] * active[name]
        yield active, value, exploring and at + 1 < cycle


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("initial", ["random", "magnitude"])
def test_every_stage_as_by_hand(kind: str, initial: Any) -> None:
    steps, until = 60, 45
    rule = IEE(steps=steps, density=0.3, initial=initial, **stages())
    model, reference = MODELS[kind]().double(), MODELS[kind]().double()
    adjust = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    pruner = SparsePruner(model, adjust, rule)
    counts, data = layer_counts("erk", pruner.masks.shapes, 0.3), batches(kind, steps)
    hand = by_hand(reference, data, counts, pruner.masks.state_dict(), until)
    grown = 0
    for step, (active, value, exploring) in zip(fit(model, adjust, pruner, data), hand, strict=True):
        grown += sum(update.grown for update in pruner.history if update.step == step)
        for name, parameter in model.named_parameters():
            if name in active:
                assert torch.equal(pruner.masks.active[name], active[name]), (step, name)
            inside = value[name] * active[name] if name in active and not exploring else value[name]
            # the step that switches on already shows what will be explored
            if not pruner.exploring or exploring:
                torch.testing.assert_close(parameter.detach(), inside, rtol=1e-9, atol=1e-12, msg=f"{step} {name}")
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, dict(reference.named_buffers())[name], rtol=1e-9, atol=1e-12)
    assert grown > 0
    assert [update.step for update in pruner.history] == [4, 12, 16, 24, 28, 36]


def stages() -> dict[str, int]:
    return {"importance_steps": H, "accuracy_steps": J, "exploration_steps": Q}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_active_part_is_frozen_while_the_rest_is_explored(optimizer: str) -> None:
    model = MODELS["convolutions"]()
    adjust = OPTIMIZERS[optimizer](model.parameters())
    pruner = SparsePruner(model, adjust, IEE(steps=40, density=0.3, **stages()))
    frozen: dict[str, Tensor] | None = None
    moved = 0
    for _ in fit(model, adjust, pruner, batches("convolutions", 40)):
        if not pruner.exploring:
            frozen = None
            continue
        now = {name: value.clone() for name, value in model.state_dict().items()}
        if frozen is not None:
            for name, value in frozen.items():
                mask = pruner.masks.active.get(name, torch.ones_like(value, dtype=torch.bool))
                assert torch.equal(value[mask], now[name][mask])
                moved += int((value[~mask] != now[name][~mask]).sum())
        frozen = now
    assert moved > 0


def test_omega_falls_along_a_cosine_and_the_last_cycle_ends_in_time() -> None:
    rule = IEE(steps=1000, **stages())
    assert rule.last == 744  # 62 cycles of 12 in the first 750
    assert rule.rate(1) == rule.rate(12) == 0.3
    assert rule.rate(13) == pytest.approx(0.15 * (1 + math.cos(math.pi * 12 / 750)))
    assert [step for step in range(740, 1000) if rule.due(step)] == [744]
    assert not any(rule.explores(step) for step in range(744, 1001))


@pytest.mark.parametrize(
    "settings",
    [{"density": 0}, {"fraction": -1}, {"initial": "zero"}, {"importance_steps": 0}, {"until": 0}, {"until": 0.1}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    wrong = f"{name} is {value!r}" if value != 0.1 else "steps is 40"  # no room for a cycle
    with pytest.raises(InputError, match=f"iee: {wrong}"):
        IEE(steps=40, **{**stages(), **settings})


class TestIEE(RuleContract):
    below = 0.3 * 0.3 + 0.01  # Ω, between pruning and growing

    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return IEE(steps=steps, density=0.3, **stages(), **settings)
