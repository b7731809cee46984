"""The joint solver against every solution there is; its bound, its gap, and what it says where there is none."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hwprune.budget import (
    Axis,
    Choices,
    Cost,
    CostAxis,
    Problem,
    Solver,
    joint,
    rank,
    read_problem,
    solve,
    solve_halp,
    write_problem,
)
from hwprune.budget.dual import Dual
from hwprune.budget.elimination import Elimination
from hwprune.budget.graph import graph_of
from hwprune.errors import InfeasibleError, InputError

from .random_problems import axis_over, fits, random_problem, solutions

PROBLEMS = 300  # five thousand of them: benchmarks/solver.py


def checked(problem: Problem, **settings: float) -> bool:
    """Whether the problem has a solution; the solver's answer must be that one, and nothing it says a lie."""
    inside = [widths for widths in solutions(problem) if fits(problem, widths)]
    if not inside:
        with pytest.raises(InfeasibleError) as caught:
            solve(problem, **settings)
        for name, least in caught.value.least.items():
            assert least == pytest.approx(min(problem.evaluate(w)[name] for w in solutions(problem)), rel=1e-6)
        assert caught.value.least.keys() == problem.budgets.keys()
        assert caught.value.hint
        return False
    plan, best = solve(problem, **settings), max(map(problem.objective, inside))
    assert fits(problem, plan.widths)
    assert plan.objective == pytest.approx(problem.objective(plan.widths), rel=1e-12)
    assert plan.used == problem.evaluate(plan.widths)
    assert plan.bound is not None
    assert plan.relative_gap is not None
    assert plan.bound >= best - 1e-9 * abs(best)
    assert plan.objective >= best - joint.GAP * abs(plan.bound) - 1e-9
    assert plan.relative_gap * abs(plan.bound) == pytest.approx(plan.bound - plan.objective, abs=1e-12)
    assert plan.relative_gap <= joint.GAP + 1e-9
    assert all(price >= 0 for price in plan.shadow_prices.values())
    return True


@pytest.mark.parametrize("part", range(10))
def test_brute_force_agrees(part: int) -> None:
    count = PROBLEMS // 10
    found = [checked(random_problem(np.random.default_rng(seed))) for seed in range(part * count, (part + 1) * count)]
    assert 0.5 < np.mean(found) < 1  # most have a solution, some have none


@pytest.mark.parametrize("part", range(3))
def test_brute_force_agrees_where_only_highs_is_left(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for problems too entangled for elimination."""
    monkeypatch.setattr("hwprune.budget.elimination.MOST_ENTRIES", 0)
    for seed in range(1000 + 20 * part, 1020 + 20 * part):
        checked(random_problem(np.random.default_rng(seed)))


@pytest.mark.parametrize("part", range(3))
def test_brute_force_agrees_where_windows_are_searched_first(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "MANAGEABLE", 4)
    monkeypatch.setattr(joint, "WINDOW", 0)
    for seed in range(2000 + 20 * part, 2020 + 20 * part):
        checked(random_problem(np.random.default_rng(seed)))


def test_every_state_is_given_its_best() -> None:
    """Max-marginals, against all states."""
    for seed in range(40):
        problem = random_problem(np.random.default_rng(seed))
        graph = graph_of(problem)
        rng = np.random.default_rng(seed)
        tables = {scope: rng.standard_normal(table.shape) for row in graph.rows for scope, table in row.tables.items()}
        every = [graph.states_of(widths) for widths in solutions(problem)]
        worth = [sum(t[tuple(s[v] for v in scope)] for scope, t in tables.items()) for s in every]
        elimination = Elimination(graph)
        value, states = elimination.best(tables)
        assert value == pytest.approx(max(worth))
        assert list(states) == every[int(np.argmax(worth))] or worth.count(max(worth)) > 1
        for variable, bests in enumerate(elimination.bests(tables)):
            for state, best in enumerate(bests):
                possible = [w for w, s in zip(worth, every, strict=True) if s[variable] == state]
                assert best == pytest.approx(max(possible)) if possible else best < -1e20


def test_a_graph_says_what_the_problem_says() -> None:
    for seed in range(40):
        problem = random_problem(np.random.default_rng(seed))
        graph = graph_of(problem)
        for widths in itertools.islice(solutions(problem), 30):
            states = graph.states_of(widths)
            assert graph.widths_of(states) == widths
            assert graph.value(states) * graph.scale == pytest.approx(problem.objective(widths), abs=1e-12)
            used: dict[str, float] = {}
            for row, cost in zip(graph.rows, graph.used(states), strict=True):
                used[row.budget] = max(used.get(row.budget, -np.inf), row.fixed + cost)
            assert used == pytest.approx(problem.evaluate(widths))


def test_the_dual_bounds_every_solution() -> None:
    for seed in range(60):
        problem = random_problem(np.random.default_rng(seed))
        inside = [problem.objective(widths) for widths in solutions(problem) if fits(problem, widths)]
        if inside:
            graph = graph_of(problem)
            bound, prices = Dual(graph).minimise(np.array([row.limit for row in graph.rows]))
            assert bound * graph.scale >= max(inside) - 1e-9
            assert (prices >= 0).all()


# By hand --------------------------------------------------------------------------------------------------------------


def network() -> Problem:
    """stem (3 → a), conv (a → b), head (b → 10)."""
    groups = {"a": Choices((8, 16), (1.0, 1.2)), "b": Choices((8, 16), (1.0, 2.0))}
    none: frozenset[str] = frozenset()
    a, b = (axis_over(groups, none, ((name, 1),)) for name in "ab")
    costs = (
        Cost("latency_ms", (a,), np.array([1.0, 2.0]), "stem"),
        Cost("latency_ms", (a, b), np.array([[1.0, 2.0], [2.0, 4.0]]), "conv"),
        Cost("latency_ms", (b,), np.array([1.0, 2.0]), "head"),
    )
    return Problem(groups=groups, costs=costs, budgets={"latency_ms": 5.0})


def test_what_the_readers_of_a_group_save_is_counted() -> None:
    plan = solve(network())
    assert plan.widths == {"a": 8, "b": 16}  # 1 + 2 + 2
    assert (plan.objective, plan.bound, plan.used) == (3.0, pytest.approx(3.0), {"latency_ms": 5.0})
    assert plan.solver == "joint"


def test_within_widths_of_before() -> None:
    assert solve(network(), at={"a": 16, "b": 8}).widths == {"a": 16, "b": 8}


def test_the_shadow_price_is_what_more_budget_is_worth() -> None:
    """On the hull between (3, 2.0) and (5, 3.0) saliency grows by a half per millisecond."""
    plan = solve(replace(network(), budgets={"latency_ms": 4.0}))
    assert plan.shadow_prices["latency_ms"] == pytest.approx(0.5)


def test_a_dead_branch_collects_nothing_and_costs_nothing() -> None:
    """The pitfall: were each layer's width free to be 0, the second would keep its saliency at no cost."""
    groups = {"skip": Choices((16,), (1.0,)), "c1": Choices((8, 16), (0.1, 0.2)), "c2": Choices((8, 16), (5.0, 6.0))}
    removable = frozenset({"c1", "c2"})
    skip, c1, c2 = (axis_over(groups, frozenset(), ((name, 1),)) for name in groups)
    costs = (
        Cost("latency_ms", (skip, c1), np.array([[4.0, 8.0]]), "conv1", present="c1"),
        Cost("latency_ms", (c1, c2), np.array([[2.0, 4.0], [4.0, 8.0]]), "conv2", present="c1"),
        Cost("latency_ms", (c2, skip), np.array([[4.0], [8.0]]), "conv3", present="c1"),
        Cost("latency_ms", (skip,), np.array([1.0]), "after"),
    )
    problem = Problem(groups=groups, costs=costs, budgets={"latency_ms": 9.0}, blocks={"branch": ("c1", "c2")})
    plan = solve(problem)
    assert plan.widths == {"skip": 16, "c1": 0, "c2": 0}
    assert (plan.objective, plan.used) == (1.0, {"latency_ms": 1.0})
    assert solve(replace(problem, budgets={"latency_ms": 11.0})).widths == {"skip": 16, "c1": 8, "c2": 8}
    again = read_problem(write_problem(problem))
    assert solve(again).widths == plan.widths
    held = problem.between({"c1": 8}, {})
    assert removable
    assert held.removable == frozenset()
    with pytest.raises(InfeasibleError, match=r"latency_ms cannot be 9: its least is 11"):
        solve(held)


def test_budgets_that_hold_one_by_one_only() -> None:
    groups = {"a": Choices((8, 16), (1.0, 2.0))}
    costs = (Cost("x", (axis_over(groups, frozenset(), (("a", 1),)),), np.array([1.0, 3.0])),
             Cost("y", (axis_over(groups, frozenset(), (("a", 1),)),), np.array([3.0, 1.0])))  # fmt: skip
    with pytest.raises(InfeasibleError, match="one by one, but not together") as caught:
        solve(Problem(groups=groups, costs=costs, budgets={"x": 2.0, "y": 2.0}))
    assert caught.value.least == {"x": pytest.approx(1.0), "y": pytest.approx(1.0)}
    assert "x of at least 3 or y of at least 3" in caught.value.hint


def test_a_size_that_a_cost_does_not_cover() -> None:
    short = CostAxis(Axis(terms=(("a", 1),)), (8,))
    problem = replace(network(), costs=(Cost("latency_ms", (short,), np.array([1.0]), "stem"),))
    with pytest.raises(InputError, match="cost 'stem' has no entry for 16 channels"):
        solve(problem)


# Larger ---------------------------------------------------------------------------------------------------------------


def residual_network(stages: int, step: int, seed: int = 0) -> Problem:
    """Bottleneck blocks around skips, on a staircase of latency."""
    rng = np.random.default_rng(seed)
    groups: dict[str, Choices] = {}
    costs: list[Cost] = []

    def add(name: str, channels: int) -> None:
        worth = rng.lognormal(0, 1.5, channels) * rng.lognormal(0, 0.7)
        groups[name] = rank(worth, range(step, channels + 1, step))

    def conv(before: str, after: str, kernel: int, size: int) -> None:
        axes = tuple(axis_over(groups, frozenset(), ((name, 1),)) for name in (before, after))
        work = kernel**2 * size**2 * np.multiply.outer(*(np.array(axis.sizes, float) for axis in axes)) / 1e7
        noise = 1 + 0.05 * rng.standard_normal(work.shape)
        costs.append(Cost("latency_ms", axes, work * noise + 0.05 * work.max() + 0.002, f"{before} {after}"))

    add("skip0", 64)
    for stage in range(stages):
        width, size = 64 << stage, 56 >> stage
        add(f"skip{stage + 1}", 4 * width)
        conv(f"skip{stage}", f"skip{stage + 1}", 1, size)
        for block in range(3):
            inner, outer = f"a{stage}{block}", f"b{stage}{block}"
            add(inner, width)
            add(outer, width)
            conv(f"skip{stage + (block > 0)}", inner, 1, size)
            conv(inner, outer, 3, size)
            conv(outer, f"skip{stage + 1}", 1, size)
    problem = Problem(groups=groups, costs=tuple(costs), budgets={"latency_ms": 1.0})
    return replace(problem, budgets={"latency_ms": problem.evaluate(problem.widest)["latency_ms"] * 0.5})


def test_a_network_is_solved_to_the_gap_and_better_than_by_halp() -> None:
    problem = residual_network(3, 16)
    plan, halp = solve(problem), solve_halp(problem, steps=10)
    assert fits(problem, plan.widths)
    assert plan.relative_gap is not None
    assert plan.bound is not None
    assert plan.relative_gap <= joint.GAP
    assert halp.objective < plan.objective <= plan.bound
    assert solve(problem) == replace(plan, solve_s=solve(problem).solve_s) or solve(problem).widths == plan.widths


def inception_network(modules: int, step: int) -> Problem:
    """Modules of four branches that are concatenated; every other one passes all that it reads on as well."""
    rng = np.random.default_rng(0)
    groups: dict[str, Choices] = {}
    costs: list[Cost] = []
    read: tuple[str, ...] = ()

    def conv(name: str, before: tuple[str, ...]) -> None:
        groups[name] = rank(rng.lognormal(0, 1.5, 192), range(step, 193, step))
        axes = tuple(axis_over(groups, frozenset(), tuple((g, 1) for g in one)) for one in (before, (name,)) if one)
        work = np.asarray(np.array(axes[0].sizes, float))
        work = np.multiply.outer(work, np.array(axes[1].sizes, float)) if len(axes) > 1 else work
        costs.append(Cost("latency_ms", axes, work * (1 + 0.05 * rng.standard_normal(work.shape)) + 50.0, name))

    for module in range(modules):
        made = []
        for branch in "abcd":
            conv(f"{branch}{module} reduce", read)
            conv(f"{branch}{module}", (f"{branch}{module} reduce",))
            made.append(f"{branch}{module}")
        read = (*made, *read) if module % 2 else tuple(made)
    problem = Problem(groups=groups, costs=tuple(costs), budgets={"latency_ms": 1.0})
    return replace(problem, budgets={"latency_ms": problem.evaluate(problem.widest)["latency_ms"] * 0.4})


def test_concatenations_of_concatenations_are_not_too_wide() -> None:
    problem = inception_network(5, 16)
    Elimination(graph_of(problem))  # or TooWide
    plan = solve(problem)
    assert fits(problem, plan.widths)
    assert plan.relative_gap is not None
    assert plan.relative_gap <= joint.GAP


def test_no_time_is_no_lie() -> None:
    problem = residual_network(2, 16)
    exact, hasty = solve(problem), solve(problem, time_limit_s=0.0)
    assert hasty.bound is not None
    assert hasty.relative_gap is not None
    assert fits(problem, hasty.widths)
    assert hasty.bound >= exact.objective >= hasty.objective


def test_the_frontier_holds_every_solution_below_it() -> None:
    problem = residual_network(2, 16)
    solver = Solver(problem)
    hull = solver.frontier("latency_ms")
    costs, kept = np.array([point[0] for point in hull]), np.array([point[1] for point in hull])
    assert len(hull) > 10
    slopes = np.diff(kept) / np.diff(costs)
    assert (slopes > 0).all()
    assert (np.diff(slopes) < 1e-9).all()
    for cost, objective, widths in hull:
        assert problem.evaluate(widths)["latency_ms"] == pytest.approx(cost)
        assert problem.objective(widths) == pytest.approx(objective)
    for share in (0.2, 0.35, 0.6, 0.9):
        limit = share * costs[-1]
        plan = solver.solve({"latency_ms": limit})
        alone = solve(replace(problem, budgets={"latency_ms": limit}))
        assert plan.objective == pytest.approx(alone.objective, rel=2 * joint.GAP)
        assert plan.objective <= np.interp(limit, costs, kept) * (1 + 1e-9)
    with pytest.raises(InputError, match="size_bytes differ from the problem's"):
        solver.solve({"latency_ms": 1.0, "size_bytes": 1.0})
    with pytest.raises(InputError, match="no hull"):
        solver.frontier("size_bytes")
