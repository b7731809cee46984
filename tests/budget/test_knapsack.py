"""The exact knapsack against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.budget import solve_mckp
from hwprune.budget.knapsack import BLOCK, frontier


def best_by_force(values, costs, capacity):
    """Greatest value over every combination, None if none fits."""
    best = None
    for choice in itertools.product(*(range(len(v)) for v in values)):
        if sum(c[j] for c, j in zip(costs, choice, strict=True)) <= capacity:
            value = sum(v[j] for v, j in zip(values, choice, strict=True))
            best = value if best is None else max(best, value)
    return best


def check(values, costs, capacity):
    expected = best_by_force(values, costs, capacity)
    chosen = solve_mckp(values, [np.asarray(c, dtype=np.int64) for c in costs], capacity)
    if expected is None:
        assert chosen is None
        return
    assert chosen is not None
    assert sum(c[j] for c, j in zip(costs, chosen, strict=True)) <= capacity
    assert sum(v[j] for v, j in zip(values, chosen, strict=True)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_random_instances_with_any_sign(seed):
    rng = np.random.default_rng(seed)
    for _ in range(400):
        sizes = rng.integers(1, 6, rng.integers(1, 6))
        values = [rng.integers(-5, 30, n).tolist() for n in sizes]
        costs = [rng.integers(-10, 25, n).tolist() for n in sizes]
        check(values, costs, int(rng.integers(-30, 70)))


@pytest.mark.parametrize("seed", range(4))
def test_random_instances_like_channel_groups(seed):
    """Rising costs and concave, real-valued saliencies, as rankings of channels give them."""
    rng = np.random.default_rng(100 + seed)
    for _ in range(200):
        sizes = rng.integers(2, 7, rng.integers(2, 5))
        values = [np.cumsum(np.sort(rng.random(n))[::-1]).tolist() for n in sizes]
        costs = [np.cumsum(rng.integers(0, 300, n)).tolist() for n in sizes]
        check(values, costs, int(rng.integers(0, sum(c[-1] for c in costs) + 1)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-100, 100), st.integers(-50, 50)), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.integers(-120, 120),
)
def test_adversarial_instances(classes, capacity):
    expected = best_by_force([[v for v, _ in c] for c in classes], [[w for _, w in c] for c in classes], capacity)
    chosen = solve_mckp(
        [[v for v, _ in c] for c in classes], [np.array([w for _, w in c], dtype=np.int64) for c in classes], capacity
    )
    assert (chosen is None) == (expected is None)
    if chosen is not None:
        assert sum(c[j][1] for c, j in zip(classes, chosen, strict=True)) <= capacity
        assert sum(c[j][0] for c, j in zip(classes, chosen, strict=True)) == pytest.approx(expected, abs=1e-9)


def test_costs_that_span_several_blocks():
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = [rng.random(4).tolist() for _ in range(4)]
        costs = [rng.integers(0, 2 * BLOCK, 4).tolist() for _ in range(4)]
        check(values, costs, int(rng.integers(0, 5 * BLOCK)))


def test_more_choices_than_a_byte_can_number():
    values = np.arange(300.0)
    costs = np.arange(300)
    assert solve_mckp([values, values], [costs, costs], 599) == [299, 299]
    assert sum(solve_mckp([values, values], [costs, costs], 401) or []) == 401


def test_frontier_holds_the_optimum_of_every_capacity():
    rng = np.random.default_rng(5)
    for _ in range(30):
        values = [rng.integers(0, 20, 4).tolist() for _ in range(3)]
        costs = [rng.integers(0, 12, 4) for _ in range(3)]
        rows = frontier(values, costs, 40)
        reached = [
            (
                sum(int(c[j]) for c, j in zip(costs, row, strict=True)),
                sum(v[j] for v, j in zip(values, row, strict=True)),
            )
            for row in rows.tolist()
        ]
        assert reached == sorted(reached)
        for capacity in range(41):
            fitting = [value for cost, value in reached if cost <= capacity]
            expected = best_by_force(values, [c.tolist() for c in costs], capacity)
            assert (max(fitting) if fitting else None) == expected


def test_nothing_fits():
    assert solve_mckp([[1.0]], [np.array([5])], 4) is None
    assert solve_mckp([[1.0], [2.0]], [np.array([5]), np.array([-2])], 3) == [0, 0]


def test_costs_must_be_integers_and_fit_the_values():
    with pytest.raises(ValueError, match="integers"):
        solve_mckp([[1.0]], [np.array([0.5])], 1)
    with pytest.raises(ValueError, match="as many costs"):
        solve_mckp([[1.0, 2.0]], [np.array([1])], 1)
    with pytest.raises(ValueError, match="as many costs"):
        solve_mckp([[]], [np.array([], dtype=np.int64)], 1)
