"""Sizes that are products of two widths, such as heads and the size of a head: against every solution there is."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem, read_problem, solve, write_problem
from hwprune.budget.graph import graph_of
from hwprune.errors import InputError

from .random_problems import random_limits, random_problem, solutions
from .test_joint import checked

HEADS = Axis(1, (("a", 2),), ((("a", "b"), 3),))


def every_size(problem: Problem, axis: Axis) -> CostAxis:
    """With all that each addend may be, whatever the others are."""
    offered = {
        name: (*((0,) if name in problem.removable else ()), *choices.widths)
        for name, choices in problem.groups.items()
    }
    sizes = {axis.fixed}
    for names, multiplier in axis.addends:
        values = {multiplier * math.prod(widths) for widths in itertools.product(*(offered[name] for name in names))}
        sizes = {size + value for size in sizes for value in values}
    return CostAxis(axis, tuple(sorted(sizes)))


def with_products(rng: np.random.Generator) -> Problem:
    """A random problem, and layers over products of its groups; of removable ones, too."""
    problem = random_problem(rng)
    names = [str(name) for name in rng.permutation(list(problem.groups))]
    first, second, third = (names * 2)[:3]
    product, costs = Axis(products=(((first, second), 1),)), []
    for number, axes in enumerate(
        (
            (product,),
            (Axis(terms=((third, 1),)), replace(product, products=(((first, second), 3),))),
            (Axis(2, ((third, 4),), product.products), Axis(terms=((first, 1),))),
            (Axis(0, ((first, 1),), product.products),),
        )
    ):
        sized = tuple(every_size(problem, axis) for axis in axes)
        table = rng.random([len(axis.sizes) for axis in sized])
        costs.append(Cost("latency_ms", sized, table, f"product {number}"))
    found = replace(problem, costs=(*problem.costs, *costs))
    return replace(found, budgets=random_limits(rng, found))


@pytest.mark.parametrize("part", range(5))
def test_brute_force_agrees(part: int) -> None:
    found = [checked(with_products(np.random.default_rng(seed))) for seed in range(12 * part, 12 * part + 12)]
    assert any(found)


def test_brute_force_agrees_where_only_highs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwprune.budget.elimination.MOST_ENTRIES", 0)
    for seed in range(100, 115):
        checked(with_products(np.random.default_rng(seed)))


def test_a_graph_says_what_the_problem_says() -> None:
    for seed in range(20):
        problem = with_products(np.random.default_rng(seed))
        graph = graph_of(problem)
        for widths in itertools.islice(solutions(problem), 40):
            used: dict[str, float] = {}
            for row, cost in zip(graph.rows, graph.used(graph.states_of(widths)), strict=True):
                used[row.budget] = max(used.get(row.budget, -np.inf), row.fixed + cost)
            assert used == pytest.approx(problem.evaluate(widths))


def test_an_axis_by_hand() -> None:
    assert HEADS.size({"a": 2, "b": 5}) == 1 + 4 + 30
    assert HEADS.groups == ("a", "b")
    assert HEADS.settled({"b": 5}) == Axis(1, (("a", 17),))
    assert HEADS.settled({"a": 2}) == Axis(5, (("b", 6),))
    assert HEADS.settled({"a": 2, "b": 5}) == Axis(35)


def test_heads_are_given_up_for_their_size_or_the_other_way_round() -> None:
    """Of products up to 8, 2 · 4 keeps most."""
    groups = {"heads": Choices((1, 2, 4), (1.0, 4.0, 5.0)), "size": Choices((2, 4, 8), (1.0, 3.0, 4.0))}
    axis = CostAxis(Axis(products=((("heads", "size"), 1),)), (2, 4, 8, 16, 32))
    cost = Cost("macs", (axis,), np.array(axis.sizes, dtype=np.float64))
    plan = solve(Problem(groups, (cost,), {"macs": 8.0}))
    assert plan.widths == {"heads": 2, "size": 4}
    assert plan.relative_gap == pytest.approx(0, abs=1e-9)


def test_written_and_read_again() -> None:
    for seed in range(5):
        problem = with_products(np.random.default_rng(seed))
        again = read_problem(write_problem(problem))
        assert [one.axes for one in again.costs] == [one.axes for one in problem.costs]


@pytest.mark.parametrize("wrong", ['[["a"], 1]', '[["a", "a"], 1]', '[["a", "b"]]', '["a", 1]'])
def test_what_is_no_product_is_refused(wrong: str) -> None:
    groups = '{"a": {"widths": [1], "saliency": [1]}, "b": {"widths": [1], "saliency": [1]}}'
    axis = f'{{"terms": [], "products": [{wrong}], "sizes": [1]}}'
    cost = f'{{"budget": "macs", "axes": [{axis}], "table": [1]}}'
    with pytest.raises(InputError, match=r"axes\[0\].products\[0\] is no product of several groups"):
        read_problem(f'{{"schema_version": 1, "groups": {groups}, "costs": [{cost}], "budgets": {{"macs": 1}}}}')
