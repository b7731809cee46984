"""Rules written down element by element, and a loop that compares every step with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hwprune.regrow import Rule, SparsePruner

from .models import MODELS, OPTIMIZERS, batches, learn, moments_of

Places = set[tuple[str, int]]
"""Elements: name of the weight, place in it when it is flattened."""


@dataclass
class Seen:
    """Everything at one step, after the optimizer and before the pruner."""

    step: int
    values: dict[str, list[float]]
    gradients: dict[str, list[float]]
    active: dict[str, list[bool]]

    def sizes(self) -> dict[str, int]:
        return {name: len(values) for name, values in self.values.items()}

    def places(self, name: str) -> list[int]:
        """Active ones of one weight."""
        return [i for i, is_active in enumerate(self.active[name]) if is_active]


Expect = Callable[[Seen], dict[str, set[int]]]


def best(places: list[int], score: list[float], count: int) -> set[int]:
    """The ``count`` places of the highest score; of equal ones the first."""
    return set(sorted(places, key=lambda i: (-score[i], i))[:count])


def magnitudes(values: list[float]) -> list[float]:
    return [abs(value) for value in values]


def flat(tensor: Tensor) -> list[Any]:
    return tensor.detach().flatten().tolist()


def compare(rule: Rule, expect: Expect, *, kind: str, optimizer: str, steps: int, **settings: Any) -> SparsePruner:
    """Train, and compare masks, weights and moments with what is expected after every step.

    Args:
        rule: under test.
        expect: weight → places that are active after an update; called at the steps of an update.
        kind: of the model.
        optimizer: of the loop.
        steps: how many.
        settings: of the pruner.
    """
    model = MODELS[kind]()
    adjust = OPTIMIZERS[optimizer](model.parameters())
    pruner = SparsePruner(model, adjust, rule, **settings)
    for step, batch in enumerate(batches(kind, steps), start=1):
        learn(model, batch)
        adjust.step()
        weights = {name: weight.parameter for name, weight in pruner.masks.weights.items()}
        old = pruner.masks.state_dict()
        # what is inactive is no candidate by its value, whatever the optimizer made of it
        values = {name: weight.detach().clone().mul_(old[name]) for name, weight in weights.items()}
        states = {name: {k: v.clone() for k, v in moments_of(adjust, w).items()} for name, w in weights.items()}
        seen = Seen(
            step,
            {name: flat(value) for name, value in values.items()},
            {name: flat(weight.grad) for name, weight in weights.items()},
            {name: flat(mask) for name, mask in old.items()},
        )
        pruner.step()
        adjust.zero_grad()
        expected = expect(seen) if rule.due(step) else {name: set(seen.places(name)) for name in values}
        for name, weight in weights.items():
            assert set(pruner.masks.active[name].flatten().nonzero().flatten().tolist()) == expected[name], (step, name)
            mask = pruner.masks.active[name]
            # grown: zero, without momentum; dropped and grown at once: as it was; out: zero
            assert torch.equal(weight, torch.where(mask & old[name], values[name], 0.0))
            for key, before in states[name].items():
                assert torch.equal(moments_of(adjust, weight)[key], torch.where(mask & old[name], before, 0.0)), key
    return pruner
