"""GraNet, against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hwprune.errors import InputError
from hwprune.regrow import GraNet, Rule

from .contract import STEPS, RuleContract
from .models import MODELS, OPTIMIZERS
from .slow import Seen, best, compare, magnitudes
from .test_gmp import globally, sparsity


def exchange(seen: Seen, active: dict[str, set[int]], share: float) -> dict[str, set[int]]:
    """Drop ⌈r·nnz⌉ of each layer by magnitude, grow as many by gradient."""
    found = {}
    for name, places in active.items():
        out = math.ceil(share * len(places))
        kept = best(sorted(places), magnitudes(seen.values[name]), len(places) - out)
        free = [i for i in range(len(seen.values[name])) if i not in kept]
        found[name] = kept | best(free, magnitudes(seen.gradients[name]), out)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("initial", [1.0, 0.5])
def test_prune_then_regenerate(kind: str, optimizer: str, initial: float) -> None:
    rule = GraNet(density=0.1, steps=40, interval=5, until=0.55, initial_density=initial)

    def expect(seen: Seen) -> dict[str, set[int]]:
        total = sum(seen.sizes().values())
        density = 1 - sparsity(seen.step, 0, 22, 1 - initial, 0.9)
        share = 0.005 + 0.5 * (0.5 - 0.005) * (1 + math.cos(math.pi * seen.step / 40))
        return exchange(seen, globally(seen, int(total * density + 1e-6)), share)

    pruner = compare(rule, expect, kind=kind, optimizer=optimizer, steps=40)
    assert [update.step for update in pruner.history] == [5, 10, 15, 20, 22, 25, 30, 35, 40]
    assert sum(pruner.masks.counts.values()) == int(pruner.masks.total * 0.1 + 1e-6)
    assert sum(update.grown for update in pruner.history) > 0


def test_start_middle_and_end_of_the_exchange() -> None:
    rule = GraNet(steps=1000)
    assert [rule.rate(step) for step in (0, 500, 1000)] == pytest.approx([0.5, 0.2525, 0.005])


def test_a_sparse_start_is_below_the_density_of_no_layer_s_own() -> None:
    with pytest.raises(InputError, match=r"initial_density is 0\.1"):
        GraNet(steps=10, density=0.2, initial_density=0.1)
    with pytest.raises(InputError, match=r"regrow_last is 0\.7"):
        GraNet(steps=10, regrow_last=0.7)


class TestDenseToSparse(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return GraNet(steps=steps, interval=4, density=0.2, **settings)


class TestSparseToSparse(RuleContract):
    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        return GraNet(steps=steps, interval=4, density=0.2, initial_density=0.5, scope="uniform", **settings)
