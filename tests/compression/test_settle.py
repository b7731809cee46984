"""The closed loop against simulated devices that the table describes badly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hwprune.budget import Plan
from hwprune.compression.settle import ClosedLoop, Trial, Window, correct
from hwprune.errors import BudgetError

GROUPS = 6
WIDTHS = tuple(range(16, 257, 16))


def predicted(widths: dict[str, int]) -> float:
    return sum((i + 1) * width for i, width in enumerate(widths.values())) / 1000


def solve(limit: float) -> Plan:
    """The widest uniform-ish plan within the limit: groups are widened in turn."""
    widths = dict.fromkeys((f"g{i}" for i in range(GROUPS)), WIDTHS[0])
    grown = True
    while grown:
        grown = False
        for name, width in widths.items():
            if width < WIDTHS[-1] and predicted({**widths, name: width + 16}) <= limit:
                widths[name] += 16
                grown = True
    return Plan(widths=widths, used={"latency_ms": predicted(widths)}, budgets={"latency_ms": limit})


DENSE = {f"g{i}": WIDTHS[-1] for i in range(GROUPS)}
SMALLEST = {f"g{i}": WIDTHS[0] for i in range(GROUPS)}
Device = Callable[[dict[str, int]], float]


def overhead(widths: dict[str, int]) -> float:
    """A fixed cost that the sum of layers does not know."""
    return 1.0 + 0.6 * predicted(widths)


def concave(widths: dict[str, int]) -> float:
    """Isolated layers overshoot, the more the larger the network."""
    return 2.0 * math.sqrt(predicted(widths))


def biased(widths: dict[str, int]) -> float:
    """One group costs three times what the table says."""
    return predicted(widths) + 2 * 6 * widths["g5"] / 1000


def noisy(seed: int) -> Device:
    generator = np.random.default_rng(seed)
    return lambda widths: (0.4 + 0.7 * predicted(widths)) * generator.normal(1.0, 0.005)


def loop(device: Device, ratio: float, **settings: object) -> ClosedLoop:
    trials = [Trial(w, predicted(w), device(w)) for w in (DENSE, SMALLEST)]
    return ClosedLoop(
        solve,
        lambda plan: device(plan.widths),
        limit=ratio * trials[0].measured,
        floor=predicted(SMALLEST) * (1 + 1e-6),
        trials=trials,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("ratio", [0.9, 0.75, 0.5, 0.35])
@pytest.mark.parametrize("device", [overhead, concave, biased, noisy(1), noisy(2)])
def test_ends_inside_the_window_in_few_measurements(device: Device, ratio: float) -> None:
    closed = loop(device, ratio)
    result = closed.run()
    assert result.inside
    (built,) = [trial for trial in result.trials if trial.widths == result.plan.widths]
    assert 0.95 <= built.measured / closed.limit <= 1
    assert len(result.trials) - 2 <= 6


def test_a_cliff_inside_the_window_gives_the_best_plan_below_it() -> None:
    def cliff(widths: dict[str, int]) -> float:
        return predicted(widths) * (1.0 if predicted(widths) < 2.0 else 1.6)

    trials = [Trial(w, predicted(w), cliff(w)) for w in (DENSE, SMALLEST)]
    closed = ClosedLoop(solve, lambda p: cliff(p.widths), limit=2.5, floor=predicted(SMALLEST), trials=trials, most=12)
    result = closed.run()
    assert not result.inside
    assert cliff(result.plan.widths) <= 2.5
    assert cliff(result.plan.widths) == max(t.measured for t in result.trials if t.measured <= 2.5)


def test_never_measures_the_same_widths_twice() -> None:
    seen: list[tuple[int, ...]] = []

    def device(widths: dict[str, int]) -> float:
        return predicted(widths) * (1.0 if predicted(widths) < 2.0 else 1.6)

    def measure(plan: Plan) -> float:
        seen.append(tuple(plan.widths.values()))
        return device(plan.widths)

    trials = [Trial(w, predicted(w), device(w)) for w in (DENSE, SMALLEST)]
    ClosedLoop(solve, measure, limit=2.5, floor=predicted(SMALLEST), trials=trials, most=20).run()
    assert len(seen) == len(set(seen)) > 2


def test_out_of_reach_says_the_least_that_was_measured() -> None:
    trials = [Trial(w, predicted(w), 5.0 + predicted(w)) for w in (DENSE, SMALLEST)]
    closed = ClosedLoop(solve, lambda p: 5.0 + predicted(p.widths), limit=5.1, floor=predicted(SMALLEST), trials=trials)
    with pytest.raises(BudgetError, match=r"5\.336"):
        closed.run()


def test_a_narrower_window_is_respected() -> None:
    closed = loop(overhead, 0.6, window=Window(low=0.975, margin=0.01))
    result = closed.run()
    assert result.inside
    assert 0.985 <= result.trials[-1].measured / closed.limit <= 0.99


def test_a_prediction_is_corrected_by_the_nearest_trial() -> None:
    trials = [Trial({}, 10.0, 5.0), Trial({}, 4.0, 3.0)]
    assert correct(9.0, trials) == pytest.approx(4.5)
    assert correct(5.0, trials) == pytest.approx(3.75)
