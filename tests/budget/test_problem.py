"""Problems: evaluation, the least, and strict reading."""

import itertools
import json

import numpy as np
import pytest

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem, read_problem, total, write_problem
from hwprune.budget.problem import worst_step
from hwprune.errors import InputError

DESIGN = {
    "schema_version": 1,
    "groups": {
        "a": {"widths": [16, 32], "saliency": [1.0, 1.5]},
        "b": {"widths": [16, 32, 48], "saliency": [0.7, 1.1, 1.3]},
    },
    "costs": [
        {"budget": "latency_ms", "groups": ["a"], "table": [0.1, 0.2]},
        {"budget": "latency_ms", "groups": ["a", "b"], "table": [[0.1, 0.2, 0.3], [0.2, 0.3, 0.5]]},
        {"budget": "size_bytes", "groups": ["b"], "table": [100, 200, 300]},
    ],
    "budgets": {"latency_ms": 0.5, "size_bytes": 250},
}


def concatenation():
    """A layer that reads a, b and 3 fixed channels (b twice) and writes c."""
    groups = {
        "a": Choices((2, 4), (1.0, 2.0)),
        "b": Choices((1, 2), (1.0, 2.0)),
        "c": Choices((5, 10), (1.0, 2.0)),
    }
    read = CostAxis(Axis(fixed=3, terms=(("a", 1), ("b", 2))), (7, 9, 11))
    write = CostAxis(Axis(terms=(("c", 1),)), (5, 10))
    table = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    return Problem(
        groups=groups, costs=(Cost("latency_ms", (read, write), table, "conv"),), budgets={"latency_ms": 9.0}
    )


def test_design_document_is_read_and_evaluated():
    problem = read_problem(json.dumps(DESIGN))
    assert problem.evaluate({"a": 32, "b": 48}) == {"latency_ms": pytest.approx(0.7), "size_bytes": 300}
    assert problem.evaluate({"a": 16, "b": 32}) == {"latency_ms": pytest.approx(0.3), "size_bytes": 200}
    assert problem.least() == {"latency_ms": pytest.approx(0.2), "size_bytes": 100}
    assert problem.objective({"a": 32, "b": 16}) == pytest.approx(2.2)
    assert problem.widest == {"a": 32, "b": 48}
    assert problem.smallest == {"a": 16, "b": 16}


def test_concatenated_input():
    problem = concatenation()
    assert problem.evaluate({"a": 2, "b": 1, "c": 5}) == {"latency_ms": 1.0}
    assert problem.evaluate({"a": 4, "b": 1, "c": 10}) == {"latency_ms": 20.0}
    assert problem.evaluate({"a": 4, "b": 2, "c": 10}) == {"latency_ms": 30.0}
    many = problem.evaluate_each("latency_ms", {"a": [2, 2, 4], "b": [1, 2, 2], "c": [10, 5, 5]})
    assert many.tolist() == [10.0, 2.0, 3.0]


def test_constant_costs_count_for_every_candidate():
    groups = {"a": Choices((1, 2), (0.0, 1.0))}
    costs = (
        Cost("latency_ms", (CostAxis(Axis(fixed=7), (7,)),), np.array([0.25])),
        Cost("latency_ms", (CostAxis(Axis(terms=(("a", 1),)), (1, 2)),), np.array([1.0, 2.0])),
    )
    problem = Problem(groups=groups, costs=costs, budgets={"latency_ms": 1.0})
    assert problem.evaluate_each("latency_ms", {"a": [1, 2]}).tolist() == [1.25, 2.25]
    assert problem.evaluate_each("macs", {"a": [1, 2]}).tolist() == [0.0, 0.0]


def test_a_size_outside_the_table_is_an_error_and_not_a_guess():
    with pytest.raises(InputError, match="no entry for 8 channels") as caught:
        concatenation().evaluate({"a": 3, "b": 1, "c": 5})
    assert "7, 9, 11" in caught.value.hint
    with pytest.raises(InputError, match="no entry for 110 channels"):
        concatenation().evaluate_each("latency_ms", {"a": [2, 105], "b": [1, 1], "c": [5, 5]})


def test_least_with_tables_that_are_not_monotonic():
    """Descent from the smallest widths finds what brute force finds where groups do not interact."""
    rng = np.random.default_rng(0)
    groups = {name: Choices((1, 2, 3), (0.0, 1.0, 2.0)) for name in "abcd"}
    for _ in range(50):
        tables = {name: rng.random(3) for name in groups}
        costs = tuple(Cost("macs", (CostAxis(Axis(terms=((n, 1),)), (1, 2, 3)),), t) for n, t in tables.items())
        problem = Problem(groups=groups, costs=costs, budgets={"macs": 1.0})
        force = min(sum(t) for t in itertools.product(*tables.values()))
        assert problem.least()["macs"] == pytest.approx(force)


def test_up_to():
    problem = read_problem(json.dumps(DESIGN)).up_to({"a": 32, "b": 40})
    assert problem.groups["b"] == Choices((16, 32), (0.7, 1.1))
    with pytest.raises(InputError, match="no width from 1 to 15"):
        problem.up_to({"a": 15, "b": 32})


@pytest.mark.parametrize("make", [lambda: read_problem(json.dumps(DESIGN)), concatenation])
def test_round_trip(make):
    problem = make()
    again = read_problem(write_problem(problem))
    assert again.groups == problem.groups
    assert again.budgets == problem.budgets
    for before, after in zip(problem.costs, again.costs, strict=True):
        assert (before.budget, before.axes, before.name) == (after.budget, after.axes, after.name)
        assert np.array_equal(before.table, after.table)
    assert write_problem(again) == write_problem(problem)


def changed(*path, value):
    document = json.loads(json.dumps(DESIGN))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


AXIS = {"terms": [["a", 1]], "sizes": [16, 32]}
BAD = {
    "other version": (changed("schema_version", value=2), "schema_version 2"),
    "version is a string": (changed("schema_version", value="1"), "schema_version is a string"),
    "unknown key": (changed("budgetz", value={}), "unknown key 'budgetz'"),
    "missing key": (json.dumps({k: v for k, v in DESIGN.items() if k != "budgets"}), "lacks the key 'budgets'"),
    "no groups": (json.dumps({**DESIGN, "groups": {}, "costs": []}), "no groups"),
    "groups a list": (changed("groups", value=[]), "groups is a list, not an object"),
    "unsorted widths": (changed("groups", "a", "widths", value=[32, 16]), "groups.a: widths [32, 16]"),
    "width zero": (changed("groups", "a", "widths", value=[0, 16]), "at least 1"),
    "width true": (changed("groups", "a", "widths", value=[True, 16]), "groups.a.widths[0] is true"),
    "width a fraction": (changed("groups", "a", "widths", value=[1.5, 16]), "1.5, not a whole number"),
    "too few saliencies": (changed("groups", "a", "saliency", value=[1.0]), "2 widths but 1 saliencies"),
    "saliency null": (changed("groups", "a", "saliency", value=[None, 1.0]), "groups.a.saliency[0] is null"),
    "unknown group": (changed("costs", 0, "groups", value=["z"]), "costs[0].groups names the unknown group 'z'"),
    "table too short": (changed("costs", 0, "table", value=[0.1]), "shape (1,)"),
    "table too deep": (changed("costs", 0, "table", value=[[0.1, 0.2]]), "shape (1, 2)"),
    "ragged table": (changed("costs", 1, "table", value=[[0.1], [0.1, 0.2, 0.3]]), "different lengths"),
    "word in table": (changed("costs", 0, "table", value=[0.1, "0.2"]), "costs[0].table[1] is a string"),
    "neither form": (changed("costs", 0, value={"budget": "macs", "table": []}), "either 'groups' or 'axes'"),
    "unknown axis group": (
        changed("costs", 0, value={"budget": "b", "axes": [{**AXIS, "terms": [["q", 1]]}], "table": [1, 2]}),
        "unknown group 'q'",
    ),
    "axis sizes unsorted": (
        changed("costs", 0, value={"budget": "b", "axes": [{**AXIS, "sizes": [32, 16]}], "table": [1, 2]}),
        "not ascending",
    ),
    "term too short": (
        changed("costs", 0, value={"budget": "b", "axes": [{**AXIS, "terms": [["a"]]}], "table": [1, 2]}),
        "costs[0].axes[0].terms[0] has 1 entries",
    ),
    "budget zero": (changed("budgets", "latency_ms", value=0), "budget latency_ms is 0"),
    "budget negative": (changed("budgets", "latency_ms", value=-1.0), "budget latency_ms is -1"),
    "NaN": (json.dumps(DESIGN).replace("0.5}", "NaN}").replace("0.5,", "NaN,"), "contains NaN"),
    "huge number": (json.dumps(DESIGN).replace("0.7", "1e999"), "too large"),
    "huge whole number": (json.dumps(DESIGN).replace("0.7", "9" * 400), "too large"),
    "repeated key": (json.dumps(DESIGN).replace('"b": {', '"a": {', 1), "key 'a' twice"),
    "not JSON": ("{", "not JSON"),
    "a list": ("[]", "the problem is a list"),
    "deep": ("[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed(name):
    document, words = BAD[name]
    with pytest.raises(InputError) as caught:
        read_problem(document)
    assert words in caught.value.message


def test_nearest_key_is_offered():
    with pytest.raises(InputError) as caught:
        read_problem(changed("groups", "a", "widhts", value=[1]))
    assert "did you mean 'widths'?" in caught.value.hint


def test_values_are_checked_without_a_file_too():
    axis = CostAxis(Axis(terms=(("a", 1),)), (1, 2))
    with pytest.raises(InputError, match="NaN"):
        Cost("macs", (axis,), np.array([1.0, np.nan]))
    with pytest.raises(InputError, match="unknown group"):
        Problem(groups={"b": Choices((1,), (0.0,))}, costs=(Cost("macs", (axis,), np.ones(2)),), budgets={})
    with pytest.raises(InputError, match="NaN or infinite"):
        Choices((1,), (float("inf"),))


def held(step: str, group: str, *table: float) -> Cost:
    return Cost("memory_bytes", (CostAxis(Axis(terms=((group, 1),)), (1, 2)),), np.array(table), step, step)


def memory() -> Problem:
    """Weights of a, then what is held in three steps."""
    groups = {name: Choices((1, 2), (1.0, 2.0)) for name in "ab"}
    costs = (
        held("", "a", 10, 20),
        held("first", "a", 5, 6),
        held("first", "b", 1, 3),
        held("second", "b", 4, 8),
        Cost("memory_bytes", (), np.array(7.0), "third", "third"),
    )
    return Problem(groups=groups, costs=costs, budgets={"memory_bytes": 20.0})


@pytest.mark.parametrize(
    ("a", "b", "always", "steps"),
    [(1, 1, 10, (6, 4, 7)), (1, 2, 10, (8, 8, 7)), (2, 1, 20, (7, 4, 7)), (2, 2, 20, (9, 8, 7))],
)
def test_of_costs_that_name_steps_the_worst_step_counts(a, b, always, steps):
    problem, widths = memory(), {"a": a, "b": b}
    assert problem.evaluate(widths) == {"memory_bytes": always + max(steps)}
    assert total(problem.costs, widths) == always + max(steps)
    assert worst_step(problem.costs, widths) == ("first", "second", "third")[int(np.argmax(steps))]


def test_steps_of_many_candidates_at_once():
    a, b = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])
    assert memory().evaluate_each("memory_bytes", {"a": a, "b": b}).tolist() == [17, 18, 27, 29]
    assert memory().least() == {"memory_bytes": 17}
    constant = Problem(groups=memory().groups, costs=memory().costs[-1:], budgets={"memory_bytes": 20.0})
    assert constant.evaluate_each("memory_bytes", {"a": a, "b": b}).tolist() == [7, 7, 7, 7]


def test_steps_are_written_and_read():
    problem = memory()
    again = read_problem(write_problem(problem))
    assert [cost.step for cost in again.costs] == ["", "first", "first", "second", "third"]
    assert '"step": ""' not in write_problem(problem)
    assert again.evaluate({"a": 2, "b": 2}) == problem.evaluate({"a": 2, "b": 2})
    with pytest.raises(InputError, match=r"costs\[1\].step is a number"):
        read_problem(write_problem(problem).replace('"step": "first"', '"step": 3', 1))
