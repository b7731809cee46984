"""Small random problems of every shape that networks give, and all their solutions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem

SHAPES = ("one group", "layer", "depthwise", "concatenation", "flatten", "two concatenations", "joined again")
BUDGETS = ("latency_ms", "size_bytes", "macs")
Terms = tuple[tuple[str, int], ...]


def axis_over(groups: Mapping[str, Choices], removable: frozenset[str], terms: Terms, fixed: int = 0) -> CostAxis:
    """With every size that the widths give it, 0 of what is removed included."""
    sizes = {fixed}
    for group, multiplier in terms:
        widths = (*((0,) if group in removable else ()), *groups[group].widths)
        sizes = {size + multiplier * width for size in sizes for width in widths}
    return CostAxis(Axis(fixed, terms), tuple(sorted(sizes)))


def random_problem(rng: np.random.Generator) -> Problem:
    """Two to five groups, one to three budgets, sometimes blocks, steps, worthless or harmful channels."""
    names = [f"g{index}" for index in range(rng.integers(2, 6))]
    groups = {name: _choices(rng) for name in names}
    blocks = _blocks(rng, names)
    removable = frozenset(itertools.chain.from_iterable(blocks.values()))
    costs = []
    for budget in BUDGETS[: rng.integers(1, 4)]:
        for number in range(rng.integers(2, 7)):
            axes = _axes(rng, SHAPES[rng.integers(len(SHAPES))], names, groups, removable)
            block = blocks[sorted(blocks)[0]] if blocks and rng.random() < 0.5 else ("",)
            costs.append(Cost(budget, axes, _table(rng, axes), f"{budget} {number}", present=block[0]))
    if rng.random() < 0.25:
        for step in ("early", "late"):
            axes = _axes(rng, "layer", names, groups, removable)
            costs.append(Cost("latency_ms", axes, 3 * _table(rng, axes), step, step=step))
    found = Problem(groups=groups, costs=tuple(costs), budgets={cost.budget: 1.0 for cost in costs}, blocks=blocks)
    return replace(found, budgets=random_limits(rng, found))


def solutions(problem: Problem) -> Iterator[dict[str, int]]:
    """All widths there are, inside the budgets or not."""
    removable = problem.removable
    offered = [(*((0,) if name in removable else ()), *choices.widths) for name, choices in problem.groups.items()]
    for chosen in itertools.product(*offered):
        widths = dict(zip(problem.groups, chosen, strict=True))
        if all(len({widths[group] > 0 for group in groups}) == 1 for groups in problem.blocks.values()):
            yield widths


def fits(problem: Problem, widths: Mapping[str, int]) -> bool:
    """Whether every budget holds."""
    used = problem.evaluate(widths)
    return all(used[name] <= limit for name, limit in problem.budgets.items())


def _choices(rng: np.random.Generator) -> Choices:
    count = int(rng.integers(1, 5))
    widths = sorted(8 * int(width) for width in rng.choice(np.arange(1, 9), count, replace=False))
    kept = np.cumsum(rng.random(count) ** 2) if rng.random() < 0.9 else rng.standard_normal(count)
    return Choices(tuple(widths), tuple(kept.tolist()))


def _blocks(rng: np.random.Generator, names: list[str]) -> dict[str, tuple[str, ...]]:
    free = [str(name) for name in rng.permutation(names)]
    if rng.random() < 0.5:
        return {}
    first = int(rng.integers(1, min(3, len(free)) + 1))
    blocks = {"a block": tuple(free[:first])}
    if len(free) > first + 1 and rng.random() < 0.4:
        blocks["another"] = (free[first],)
    return blocks


def _axes(
    rng: np.random.Generator, shape: str, names: list[str], groups: Mapping[str, Choices], removable: frozenset[str]
) -> tuple[CostAxis, ...]:
    a, b, *others = (str(name) for name in rng.permutation(names))
    c = others[0] if others else a
    terms: dict[str, tuple[tuple[Terms, int], ...]] = {
        "one group": ((((a, 1),), 0),),
        "layer": ((((a, 1),), 0), (((b, 1),), 0)),
        "depthwise": ((((a, 1),), 0), (((a, 1),), 0)),
        "concatenation": ((((a, 1), (b, 2)), 3), (((b, 1),), 0)),
        "flatten": ((((a, 49), (b, 49)), int(rng.integers(0, 4))), ((), 1)),
        "joined again": ((((a, 1), (b, 1)), 0), (((c, 1), (a, 1), (b, 1)) if c != a else ((b, 1),), 0)),
        "two concatenations": ((((a, 1), (b, 1)), 0), (((c, 4), (b, 1)) if c != b else ((b, 1),), 0)),
    }
    return tuple(axis_over(groups, removable, *each) for each in terms[shape])


def _table(rng: np.random.Generator, axes: tuple[CostAxis, ...]) -> np.ndarray:
    """A staircase in all sizes; or nothing but noise."""
    shape = [len(axis.sizes) for axis in axes]
    if rng.random() < 0.3:
        return rng.random(shape)
    stairs = [np.ceil(np.array(axis.sizes) / 16) for axis in axes]
    product = stairs[0] if len(stairs) == 1 else np.multiply.outer(*stairs)
    return np.asarray(rng.random() * product + 0.1 * rng.random())


def random_limits(rng: np.random.Generator, problem: Problem) -> dict[str, float]:
    """Some that nothing is inside of, some that everything is."""
    used = [problem.evaluate(widths) for widths in solutions(problem)]
    limits = {}
    for name in problem.budgets:
        least, most = min(one[name] for one in used), max(one[name] for one in used)
        limits[name] = float(max(least + (most - least) * rng.uniform(-0.1, 1.05), 1e-6))
    return limits
