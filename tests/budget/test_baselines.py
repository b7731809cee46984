"""Uniform and global pruning: what they choose by hand, and never outside the budgets."""

from __future__ import annotations

import numpy as np
import pytest

from hwprune.budget import Choices, Cost, Problem, solve, solve_global, solve_uniform, solvers
from hwprune.errors import InfeasibleError

from .random_problems import axis_over, fits, random_problem


def network(limit: float) -> Problem:
    groups = {"a": Choices((8, 16, 24, 32), (8.0, 9.0, 9.5, 9.6)), "b": Choices((8, 16), (1.0, 1.5))}
    axes = [axis_over(groups, frozenset(), ((name, 1),)) for name in groups]
    costs = (Cost("macs", axes[:1], np.array([1.0, 2.0, 3.0, 4.0])), Cost("macs", axes[1:], np.array([1.0, 2.0])))
    return Problem(groups=groups, costs=tuple(map(_tupled, costs)), budgets={"macs": limit})


def _tupled(cost: Cost) -> Cost:
    return Cost(cost.budget, tuple(cost.axes), cost.table)


def test_uniform_takes_the_same_share_of_all() -> None:
    assert solve_uniform(network(6.0)).widths == {"a": 32, "b": 16}
    assert solve_uniform(network(4.0)).widths == {"a": 24, "b": 8}
    assert solve_uniform(network(3.0)).widths == {"a": 16, "b": 8}


def test_global_takes_the_best_channels_of_all() -> None:
    # Per channel: a 1, 1/8, 1/16, 1/80; b 1/8, 1/16.
    assert solve_global(network(2.0)).widths == {"a": 8, "b": 8}
    assert solve_global(network(3.0)).widths == {"a": 16, "b": 8}
    assert solve_global(network(5.0)).widths == {"a": 24, "b": 16}


@pytest.mark.parametrize("solver", [solve_uniform, solve_global])
def test_out_of_reach(solver) -> None:
    with pytest.raises(InfeasibleError) as caught:
        solver(network(1.5))
    assert caught.value.least == {"macs": 2.0}


@pytest.mark.parametrize("name", sorted(set(solvers()) - {"halp"}))
def test_inside_the_budgets_and_never_better_than_the_optimum(name: str) -> None:
    compared = 0
    for seed in range(60):
        problem = random_problem(np.random.default_rng(seed))
        if problem.blocks:
            continue
        try:
            plan = solvers()[name](problem)
        except InfeasibleError:
            continue
        compared += 1
        assert fits(problem, plan.widths)
        assert plan.objective == pytest.approx(problem.objective(plan.widths))
        assert plan.objective <= solve(problem).objective * (1 + 1e-3) + 1e-9
    assert compared > 10
