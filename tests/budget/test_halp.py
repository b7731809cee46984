"""HALP: separable costs by hand, and plans against brute force."""

import itertools

import numpy as np
import pytest

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem, rank, separable, solve_halp
from hwprune.errors import InfeasibleError, InputError


def plain(group, widths):
    return CostAxis(Axis(terms=((group, 1),)), tuple(widths))


FIXED = CostAxis(Axis(fixed=3), (3,))


def by_hand():
    """stem (3 → a), conv (a → b), concat of a and b read as one tensor, head (a+b → 3 fixed)."""
    groups = {"a": Choices((1, 2), (1.0, 1.5)), "b": Choices((10, 20), (2.0, 2.5))}
    joined = CostAxis(Axis(terms=(("a", 1), ("b", 1))), (11, 12, 21, 22))
    costs = (
        Cost("latency_ms", (FIXED, plain("a", (1, 2))), np.array([[0.5, 0.75]]), "stem"),
        Cost("latency_ms", (plain("a", (1, 2)), plain("b", (10, 20))), np.array([[1.0, 2.0], [4.0, 8.0]]), "conv"),
        Cost("latency_ms", (joined,), np.array([0.1, 0.2, 0.4, 0.8]), "cat"),
        Cost("latency_ms", (joined, FIXED), np.array([[3.0], [5.0], [7.0], [11.0]]), "head"),
        Cost("size_bytes", (plain("a", (1, 2)),), np.array([100.0, 200.0]), "other budget"),
    )
    return Problem(groups=groups, costs=costs, budgets={"latency_ms": 10.0})


def test_separable_by_hand_at_the_dense_widths():
    charged, constant = separable(by_hand(), "latency_ms", {"a": 2, "b": 20})
    # a: stem [.5 .75] + the concatenation as a whole with b at 20 [.4 .8]
    assert charged["a"] == pytest.approx([0.9, 1.55])
    # b: conv with a frozen at 2 [4 8] + how the concatenation changes with a at 2 [.2−.8, 0]
    assert charged["b"] == pytest.approx([3.4, 8.0])
    assert constant == pytest.approx(11.0)  # the head's output is fixed: nobody is charged


def test_separable_by_hand_at_smaller_widths():
    charged, constant = separable(by_hand(), "latency_ms", {"a": 1, "b": 20})
    assert charged["a"] == pytest.approx([0.9, 1.55])
    assert charged["b"] == pytest.approx([1.0 + 0.1 - 0.4, 2.0])
    assert constant == pytest.approx(7.0)


def test_separable_costs_of_the_other_budget():
    charged, constant = separable(by_hand(), "size_bytes", {"a": 2, "b": 20})
    assert charged["a"].tolist() == [100.0, 200.0]
    assert charged["b"].tolist() == [0.0, 0.0]
    assert constant == 0.0


def test_input_and_output_of_one_group():
    """A layer inside a residual block reads and writes the same group: only its output side is charged."""
    costs = (Cost("latency_ms", (plain("a", (1, 2)), plain("a", (1, 2))), np.array([[1.0, 2.0], [3.0, 5.0]])),)
    problem = Problem(groups={"a": Choices((1, 2), (1.0, 2.0))}, costs=costs, budgets={"latency_ms": 4.0})
    assert separable(problem, "latency_ms", {"a": 2})[0]["a"].tolist() == [3.0, 5.0]
    plan = solve_halp(problem)
    assert (plan.widths, plan.used) == ({"a": 1}, {"latency_ms": 1.0})


def random_problem(rng, *, chain, steps=4):
    """A chain (or tree with skips) of layers over a staircase of latency, with some random bumps."""
    names = [f"g{i}" for i in range(chain)]
    channels = {name: int(rng.integers(2, steps + 1)) * 8 for name in names}
    groups = {n: rank(rng.random(c) ** 3, tuple(range(8, c + 1, 8))) for n, c in channels.items()}
    costs = [Cost("latency_ms", (FIXED, plain("g0", groups["g0"].widths)), rng.random((1, len(groups["g0"].widths))))]
    for before, after in itertools.pairwise(names):
        ins, outs = np.array(groups[before].widths), np.array(groups[after].widths)
        table = (
            np.outer(np.ceil(ins / 16), np.ceil(outs / 16)) * rng.random()
            + 0.1
            + 0.05 * rng.random((ins.size, outs.size))
        )
        costs.append(Cost("latency_ms", (plain(before, ins), plain(after, outs)), table, after))
    last = CostAxis(Axis(terms=((names[0], 1), (names[-1], 4))), _sums(groups[names[0]], groups[names[-1]]))
    costs.append(Cost("latency_ms", (last, FIXED), np.sort(rng.random((len(last.sizes), 1)), axis=0), "head"))
    problem = Problem(groups=groups, costs=tuple(costs), budgets={"latency_ms": 1.0})
    lowest, highest = problem.least()["latency_ms"], problem.evaluate(problem.widest)["latency_ms"]
    limit = lowest + (highest - lowest) * float(rng.uniform(0.0, 1.1))
    return Problem(groups=groups, costs=tuple(costs), budgets={"latency_ms": limit})


def _sums(a, b):
    return tuple(sorted({x + 4 * y for x in a.widths for y in b.widths}))


def by_force(problem):
    """(greatest saliency inside the budget, least cost) over every combination of widths."""
    limit = problem.budgets["latency_ms"]
    best, least = -np.inf, np.inf
    for widths in itertools.product(*(c.widths for c in problem.groups.values())):
        choice = dict(zip(problem.groups, widths, strict=True))
        cost = problem.evaluate(choice)["latency_ms"]
        least = min(least, cost)
        if cost <= limit:
            best = max(best, problem.objective(choice))
    return best, least


@pytest.mark.parametrize("steps", [1, 5])
def test_plans_are_inside_the_budget_and_close_to_the_optimum(steps):
    rng = np.random.default_rng(steps)
    shares = []
    for _ in range(60):
        problem = random_problem(rng, chain=4)
        plan = solve_halp(problem, steps=steps)
        best, _ = by_force(problem)
        assert plan.used["latency_ms"] <= problem.budgets["latency_ms"]
        assert plan.used == problem.evaluate(plan.widths)
        assert plan.objective == pytest.approx(problem.objective(plan.widths))
        assert plan.objective <= best * (1 + 1e-12)
        shares.append(plan.objective / best)
    assert np.mean(shares) > 0.98
    assert min(shares) > 0.8


def test_no_single_group_could_be_wider():
    """What is left of the budget is spent: every wider choice of one group is over it or worth nothing."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        problem = random_problem(rng, chain=5)
        plan = solve_halp(problem)
        for name, choices in problem.groups.items():
            for width in choices.widths:
                wider = {**plan.widths, name: width}
                if problem.objective(wider) > plan.objective:
                    assert problem.evaluate(wider)["latency_ms"] > problem.budgets["latency_ms"]


def test_costs_are_made_separable_anew_on_the_way():
    """Far below the dense cost, costs frozen at the dense widths mislead: several steps keep more."""
    rng = np.random.default_rng(21)
    once = stepwise = 0.0
    for _ in range(20):
        problem = random_problem(rng, chain=7, steps=6)
        lowest, highest = problem.least()["latency_ms"], problem.evaluate(problem.widest)["latency_ms"]
        tight = Problem(problem.groups, problem.costs, {"latency_ms": lowest + 0.2 * (highest - lowest)})
        once += solve_halp(tight).objective
        stepwise += solve_halp(tight, steps=8).objective
    assert stepwise > 1.002 * once


def test_exact_where_costs_are_separable():
    rng = np.random.default_rng(11)
    for _ in range(40):
        groups = {n: rank(rng.random(5), (1, 2, 3, 4, 5)) for n in "abcd"}
        costs = tuple(
            Cost("latency_ms", (FIXED, plain(n, (1, 2, 3, 4, 5))), np.cumsum(rng.random((1, 5)), axis=1))
            for n in groups
        )
        limit = float(rng.uniform(4, 10))
        problem = Problem(groups=groups, costs=costs, budgets={"latency_ms": limit})
        best, least = by_force(problem)
        if least > limit:
            with pytest.raises(InfeasibleError):
                solve_halp(problem)
        else:
            # the knapsack's bins leave a sliver of the budget at most
            assert solve_halp(problem).objective == pytest.approx(best, rel=1e-3)


def test_a_budget_of_the_dense_cost_or_more_keeps_everything():
    problem = random_problem(np.random.default_rng(1), chain=4)
    dense = problem.evaluate(problem.widest)["latency_ms"]
    for limit in (dense, 3 * dense):
        roomy = Problem(groups=problem.groups, costs=problem.costs, budgets={"latency_ms": limit})
        assert solve_halp(roomy, steps=3).widths == problem.widest


def test_widths_never_grow_above_where_they_are():
    rng = np.random.default_rng(2)
    for _ in range(20):
        problem = random_problem(rng, chain=4)
        at = {name: int(rng.choice(choices.widths)) for name, choices in problem.groups.items()}
        roomy = Problem(groups=problem.groups, costs=problem.costs, budgets={"latency_ms": 1e3})
        assert solve_halp(roomy, at=at).widths == at
        try:
            plan = solve_halp(problem, at=at)
        except InfeasibleError:
            continue
        assert all(plan.widths[name] <= at[name] for name in at)


def test_the_least_budget_is_reached_and_nothing_below_it():
    problem = random_problem(np.random.default_rng(4), chain=5)
    least = problem.least()["latency_ms"]
    exactly = Problem(groups=problem.groups, costs=problem.costs, budgets={"latency_ms": least})
    assert solve_halp(exactly).used["latency_ms"] == pytest.approx(least)
    below = Problem(groups=problem.groups, costs=problem.costs, budgets={"latency_ms": least * 0.999})
    with pytest.raises(InfeasibleError) as caught:
        solve_halp(below)
    assert caught.value.least == {"latency_ms": least}
    assert f"{least:.6g}" in caught.value.message


def test_costs_that_do_not_depend_on_anything():
    costs = (Cost("latency_ms", (FIXED,), np.array([0.5])),)
    problem = Problem(groups={"a": Choices((1, 2), (1.0, 2.0))}, costs=costs, budgets={"latency_ms": 1.0})
    assert solve_halp(problem).widths == {"a": 2}
    with pytest.raises(InfeasibleError, match=r"least that any allowed widths reach is 0\.5"):
        solve_halp(Problem(groups=problem.groups, costs=costs, budgets={"latency_ms": 0.4}))


def held_in_steps(random, groups=5, steps=6):
    """What weights take, and in every step the tensors of a few groups: linear in the widths, as activations are."""
    widths = (4, 8, 12, 16)
    choices = {f"g{i}": rank(random.exponential(size=16) * random.uniform(0.2, 5), widths) for i in range(groups)}
    costs = []
    for i in range(1, groups):
        pair = (plain(f"g{i - 1}", widths), plain(f"g{i}", widths))
        table = random.uniform(0.01, 0.2) * np.outer(widths, widths)
        costs.append(Cost("memory_bytes", pair, table, f"weights {i}"))
    for step in range(steps):
        for i in random.choice(groups, random.integers(1, 4), replace=False):
            table = random.uniform(0.5, 8) * np.array(widths)
            costs.append(Cost("memory_bytes", (plain(f"g{i}", widths),), table, f"step {step}", f"step {step}"))
    problem = Problem(groups=choices, costs=tuple(costs), budgets={"memory_bytes": 1.0})
    low, high = problem.evaluate(problem.smallest)["memory_bytes"], problem.evaluate(problem.widest)["memory_bytes"]
    limit = low + random.uniform(0.1, 0.9) * (high - low)
    return Problem(groups=choices, costs=tuple(costs), budgets={"memory_bytes": limit})


def test_the_worst_step_is_brought_inside_the_budget_against_brute_force():
    shares = []
    for seed in range(40):
        problem = held_in_steps(np.random.default_rng(seed))
        limit = problem.budgets["memory_bytes"]
        plan = solve_halp(problem)
        assert problem.evaluate(plan.widths)["memory_bytes"] == plan.used["memory_bytes"] <= limit
        names = list(problem.groups)
        every = np.array(list(itertools.product(*(problem.groups[name].widths for name in names)))).T
        columns = dict(zip(names, every, strict=True))
        inside = problem.evaluate_each("memory_bytes", columns) <= limit
        worth = sum(
            np.asarray(choices.saliency)[np.searchsorted(choices.widths, columns[name])]
            for name, choices in problem.groups.items()
        )
        shares.append(plan.objective / worth[inside].max())
    assert max(shares) == pytest.approx(1.0)
    assert np.mean(shares) > 0.98
    assert min(shares) > 0.9


def test_steps_out_of_reach_are_refused_with_the_least():
    problem = held_in_steps(np.random.default_rng(1))
    least = problem.least()["memory_bytes"]
    assert least == problem.evaluate(problem.smallest)["memory_bytes"]
    below = Problem(groups=problem.groups, costs=problem.costs, budgets={"memory_bytes": least * 0.999})
    with pytest.raises(InfeasibleError) as caught:
        solve_halp(below)
    assert caught.value.least == {"memory_bytes": least}
    exactly = Problem(groups=problem.groups, costs=problem.costs, budgets={"memory_bytes": least})
    assert exactly.evaluate(solve_halp(exactly).widths)["memory_bytes"] == least


def test_no_group_grows_while_steps_are_brought_inside():
    problem = held_in_steps(np.random.default_rng(2))
    at = {**problem.widest, "g0": 8, "g3": 12}
    plan = solve_halp(problem, at=at)
    assert all(plan.widths[name] <= at[name] for name in at)


def test_one_budget_at_a_time():
    problem = by_hand()
    two = Problem(groups=problem.groups, costs=problem.costs, budgets={"latency_ms": 10.0, "size_bytes": 100.0})
    with pytest.raises(InputError, match="one budget at a time"):
        solve_halp(two)


def test_the_same_problem_gives_the_same_plan():
    problem = random_problem(np.random.default_rng(9), chain=6)
    assert solve_halp(problem, steps=4).widths == solve_halp(problem, steps=4).widths
