"""The closed loop against simulated devices that the table describes badly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hwprune.budget import Axis, Cost, CostAxis, Plan, Problem, rank
from hwprune.compression.settle import ClosedLoop, Trial, Window, correct
from hwprune.errors import BudgetError

GROUPS = 6
WIDTHS = tuple(range(16, 257, 16))


def layer(i: int) -> Cost:
    axis = CostAxis(Axis(terms=((f"g{i}", 1),)), WIDTHS)
    return Cost(budget="latency_ms", axes=(axis,), table=(i + 1) * np.array(WIDTHS) / 1000)


PROBLEM = Problem(
    groups={f"g{i}": rank(np.random.default_rng(i).exponential(size=256) * (1 + i % 3), WIDTHS) for i in range(GROUPS)},
    costs=tuple(layer(i) for i in range(GROUPS)),
    budgets={"latency_ms": 1.0},
)


def predicted(widths: dict[str, int]) -> float:
    return PROBLEM.evaluate(widths)["latency_ms"]


DENSE, SMALLEST = PROBLEM.widest, PROBLEM.smallest
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
    return lambda widths: (0.4 + 0.7 * predicted(widths)) * generator.normal(1.0, 0.004)


def erratic(seed: int) -> Device:
    """Layers are off by 25 % each, as they are outside their context, and every width by its own 3 %."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(1.0, 0.25, (GROUPS, 1)).clip(0.4) * generator.normal(1.0, 0.03, (GROUPS, len(WIDTHS)))

    def device(widths: dict[str, int]) -> float:
        parts = [(i + 1) * w / 1000 * factors[i, WIDTHS.index(w)] for i, w in enumerate(widths.values())]
        return 0.2 + 0.8 * sum(parts)

    return device


def loop(device: Device, ratio: float, **settings: object) -> ClosedLoop:
    trials = [Trial(w, predicted(w), device(w)) for w in (DENSE, SMALLEST)]
    return ClosedLoop(
        PROBLEM,
        lambda plan: device(plan.widths),
        limit=ratio * trials[0].measured,
        trials=trials,
        **settings,  # type: ignore[arg-type]
    )


DEVICES = [overhead, concave, biased, noisy(1), noisy(2), *(erratic(seed) for seed in range(8))]


@pytest.mark.parametrize("ratio", [0.9, 0.75, 0.5, 0.35])
@pytest.mark.parametrize("device", DEVICES)
def test_ends_inside_the_window_in_few_measurements(device: Device, ratio: float) -> None:
    closed = loop(device, ratio)
    result = closed.run()
    assert result.inside
    (built,) = [trial for trial in result.trials if trial.widths == result.plan.widths]
    assert 0.95 <= built.measured / closed.limit <= 1
    assert len(result.trials) - 2 <= 8


def cliff(widths: dict[str, int]) -> float:
    return predicted(widths) * (1.0 if predicted(widths) < 2.0 else 1.6)


def test_a_cliff_inside_the_window_gives_a_plan_below_it() -> None:
    trials = [Trial(w, predicted(w), cliff(w)) for w in (DENSE, SMALLEST)]
    result = ClosedLoop(PROBLEM, lambda p: cliff(p.widths), limit=2.5, trials=trials).run()
    assert not result.inside
    assert 1.8 < cliff(result.plan.widths) <= 2.5


def test_never_measures_the_same_widths_again_later() -> None:
    seen: list[tuple[int, ...]] = []

    def measure(plan: Plan) -> float:
        seen.append(tuple(plan.widths.values()))
        return cliff(plan.widths)

    trials = [Trial(w, predicted(w), cliff(w)) for w in (DENSE, SMALLEST)]
    ClosedLoop(PROBLEM, measure, limit=2.5, trials=trials, most=20).run()
    assert len(seen) == len(set(seen)) > 2


def test_a_lucky_reading_is_measured_again() -> None:
    readings: list[float] = []

    def measure(plan: Plan) -> float:
        readings.append(predicted(plan.widths) * (0.97 if not readings else 1.03))
        return readings[-1]

    trials = [Trial(w, predicted(w), predicted(w)) for w in (DENSE, SMALLEST)]
    closed = ClosedLoop(PROBLEM, measure, limit=predicted(DENSE) / 2, trials=trials)
    result = closed.run()
    assert result.inside
    assert predicted(result.plan.widths) * 1.03 <= closed.limit * 1.0  # the later readings decide


def test_out_of_reach_says_the_least_that_was_measured() -> None:
    trials = [Trial(w, predicted(w), 5.0 + predicted(w)) for w in (DENSE, SMALLEST)]
    closed = ClosedLoop(PROBLEM, lambda p: 5.0 + predicted(p.widths), limit=5.1, trials=trials)
    with pytest.raises(BudgetError, match=r"5\.336ms"):
        closed.run()


def test_earlier_trials_are_a_way_out_when_nothing_new_fits() -> None:
    """The second attempt starts from what the first one measured, and must not forget it."""
    known = {**SMALLEST, "g5": 128}
    trials = [Trial(w, predicted(w), predicted(w)) for w in (DENSE, SMALLEST, known)]
    closed = ClosedLoop(PROBLEM, lambda p: 99.0, limit=predicted(known) * 1.1, trials=trials, most=4)
    assert closed.run().plan.widths == known


def test_a_narrower_window_is_respected() -> None:
    closed = loop(overhead, 0.6, window=Window(low=0.97, margin=0.005))
    result = closed.run()
    assert result.inside
    assert 0.975 <= result.trials[-1].measured / closed.limit <= 0.995


def test_a_prediction_is_corrected_by_the_trials_around_it() -> None:
    trials = [Trial({}, 10.0, 5.0), Trial({}, 4.0, 3.0)]
    assert correct(7.0, trials) == pytest.approx(4.0)
    assert correct(4.0, trials) == pytest.approx(3.0)
    assert correct(2.0, trials) == pytest.approx(1.5)
    assert correct(20.0, trials) == pytest.approx(10.0)
