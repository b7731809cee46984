"""The joint optimum: every layer priced over its input *and* output width, solved with a certificate.

HALP's knapsack prices a channel by its own layer's output side alone. Here costs are joint (as in MDP: Sun et al.,
"MDP: Multidimensional Vision Model Pruning with Latency Constraint", CVPR 2025, which leaves the problem non-convex),
and solved to a proven gap:

1. The Lagrangian dual gives an upper bound, and solutions on both sides of the budget (:mod:`.dual`).
2. These are mended and improved by small steps (:mod:`.search`): a solution inside the budgets.
3. Every width whose own upper bound is no better than that solution is struck out (reduced-cost fixing by exact
   max-marginals). What is left is a small mixed-integer programme, which HiGHS solves (:mod:`.milp`); it cannot contain
   less than the optimum, so its bound holds for the whole problem. Where it is still large, a window of widths around
   the solutions is searched first for a better one, which strikes out more.

Where elimination needs too large a table, HiGHS solves everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import InfeasibleError, InputError

from .dual import Dual, Vertex
from .elimination import TooWide
from .graph import Floats, Graph, graph_of, room
from .milp import Programme
from .plan import Plan
from .problem import Problem
from .search import shrink, spend

GAP = 1e-4  # relative, at which solving ends
TIME_LIMIT_S = 60.0
MANAGEABLE = 12_000  # entries of joint tables that HiGHS is given without looking for a better solution first
WINDOW = 2  # widths on either side of a solution that are searched for a better one
POLISHED = 6  # solutions that are mended and improved
SLACK = 1e-9  # relative; of comparisons between sums in different order


def solve(
    problem: Problem,
    *,
    at: Mapping[str, int] | None = None,
    gap: float = GAP,
    time_limit_s: float = TIME_LIMIT_S,
) -> Plan:
    """The most saliency within all budgets.

    Args:
        problem: any number of groups, costs, budgets and removable blocks.
        at: group name → width that it does not grow above. Default: the widest.
        gap: relative distance of objective and bound at which to stop.
        time_limit_s: after which the best so far is returned; its gap tells how good that is.

    Returns:
        The plan, with its bound, gap and shadow prices; ``kept`` and ``cuts`` are empty.

    Raises:
        InfeasibleError: no widths are inside all budgets; ``least`` says what each could be.
        InputError: a cost does not cover a size that the widths lead to.
    """
    return Solver(problem.up_to(at) if at else problem).solve(gap=gap, time_limit_s=time_limit_s)


@dataclass(frozen=True, eq=False)
class _Found:
    """The best so far.

    Attributes:
        states: of all variables.
        value: saliency over ``Graph.scale``.
        bound: no solution is better.
    """

    states: Sequence[int]
    value: float
    bound: float

    def closed(self, gap: float) -> bool:
        return self.bound - self.value <= gap * abs(self.bound) + SLACK


class Solver:
    """Solves one problem at any limits; what was found for some serves for the others.

    Args:
        problem: as for :func:`solve`.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._graph = problem, graph_of(problem)
        try:
            self._dual: Dual | None = Dual(self._graph)
        except TooWide:
            self._dual = None

    def solve(
        self, budgets: Mapping[str, float] | None = None, *, gap: float = GAP, time_limit_s: float = TIME_LIMIT_S
    ) -> Plan:
        """The most saliency within all budgets.

        Args:
            budgets: limits by name, instead of the problem's.
            gap: as for :func:`solve`.
            time_limit_s: as for :func:`solve`.

        Raises:
            InfeasibleError: as for :func:`solve`.
        """
        began = time.perf_counter()
        problem = self._problem if budgets is None else self._with(budgets)
        graph = self._graph if budgets is None else _limited(self._graph, problem.budgets)
        search = _Search(problem, graph, self._dual, gap, began + time_limit_s)
        found, prices = search.run()
        widths = graph.widths_of(found.states)
        objective = problem.objective(widths)
        bound = max(objective, found.bound * graph.scale)
        return Plan(
            widths=widths,
            objective=objective,
            used=problem.evaluate(widths),
            budgets=dict(problem.budgets),
            solver="joint",
            solve_s=time.perf_counter() - began,
            bound=bound,
            relative_gap=(bound - objective) / abs(bound) if bound else 0.0,
            shadow_prices=_by_budget(graph, prices),
        )

    def frontier(self, budget: str) -> list[tuple[float, float, dict[str, int]]]:
        """Cost, saliency and widths of the solutions on the upper hull of saliency over one budget, by rising cost.

        No solution of any other cost is above the line between two of them. Other budgets are not looked at.

        Args:
            budget: its name; without steps.

        Raises:
            InputError: there is no such budget, it has steps, or the problem is too entangled for elimination.
        """
        rows = [number for number, row in enumerate(self._graph.rows) if row.budget == budget]
        if len(rows) != 1 or self._dual is None:
            raise InputError(
                f"there is no hull of {budget!r}", hint="give a budget that is one sum, or solve for several limits"
            )
        fixed, scale = self._graph.rows[rows[0]].fixed, self._graph.scale
        return [
            (float(v.used[rows[0]]) + fixed, v.value * scale, self._graph.widths_of(v.states))
            for v in self._dual.hull(rows[0])
        ]

    def _with(self, budgets: Mapping[str, float]) -> Problem:
        strange = sorted(set(budgets) ^ set(self._problem.budgets))
        if strange:
            raise InputError(
                f"budgets {', '.join(strange)} differ from the problem's", hint="give the same budgets, other limits"
            )
        return replace(self._problem, budgets=dict(budgets))


class _Search:
    """One solve."""

    def __init__(self, problem: Problem, graph: Graph, dual: Dual | None, gap: float, deadline: float) -> None:
        self._problem, self._graph, self._dual = problem, graph, dual
        self._gap, self._deadline = gap, deadline
        self._limits = np.array([row.limit for row in graph.rows])

    def run(self) -> tuple[_Found, Floats]:
        """The best solution with its bound, and the price of each row."""
        if self._dual is None:
            return self._entirely()
        self._check_each(self._dual)
        bound, prices = self._dual.minimise(self._limits)
        found = self._best(self._mended(self._dual.vertices), bound)
        while found is None or not found.closed(self._gap):
            better = self._narrowed(self._dual, found, bound, prices)
            if better is None:
                break
            done = found is not None and better.value <= found.value + SLACK and better.bound >= bound - SLACK
            found, bound = better, min(bound, better.bound)
            if done or self._left() <= 0:
                break
        if found is None:
            raise self._infeasible()
        return found, prices

    def _left(self) -> float:
        return max(0.0, self._deadline - time.perf_counter())

    def _entirely(self) -> tuple[_Found, Floats]:
        """By HiGHS alone."""
        programme = Programme(self._graph)
        relaxed = programme.relaxed()
        if relaxed is None:
            raise self._infeasible()
        solution = programme.solve(gap=self._gap, time_limit_s=self._left())
        bound = min(relaxed[0], solution.bound)
        found = self._best([solution.states] if solution.states else [], bound)
        found = found or self._best(self._repaired([self._problem.widest]), bound)
        if found is None:
            raise self._infeasible()
        return found, relaxed[1]

    # Solutions inside all budgets -------------------------------------------------------------------------------------

    def _mended(self, vertices: Iterable[Vertex]) -> list[Sequence[int]]:
        """Solutions inside the budgets: the best vertices, widened; those outside, narrowed and widened."""
        inside = [v for v in vertices if np.all(v.used <= self._limits)]
        outside = [v for v in vertices if np.any(v.used > self._limits)]
        inside.sort(key=lambda vertex: -vertex.value)
        outside.sort(key=lambda vertex: float(np.max(vertex.used / np.maximum(self._limits, 1e-12))))
        chosen = inside[: POLISHED // 2] + outside[: POLISHED - POLISHED // 2]
        return [v.states for v in inside] + self._repaired([self._graph.widths_of(v.states) for v in chosen])

    def _repaired(self, starts: Iterable[Mapping[str, int]]) -> list[Sequence[int]]:
        found: list[Sequence[int]] = []
        for start in starts:
            inside = shrink(self._problem, start)
            if inside is not None:
                found.append(self._graph.states_of(spend(self._problem, inside)))
        return found

    def _best(self, solutions: Iterable[Sequence[int]], bound: float) -> _Found | None:
        """The best of those that are inside the budgets by the problem's own sums."""
        best: _Found | None = None
        for states in solutions:
            widths = self._graph.widths_of(states)
            if self._problem.holds(widths):
                value = self._graph.value(states)
                if best is None or value > best.value:
                    best = _Found(states, value, max(bound, value))
        return best

    # Closing the gap --------------------------------------------------------------------------------------------------

    def _narrowed(self, dual: Dual, found: _Found | None, bound: float, prices: Floats) -> _Found | None:
        """Solve what can still hold something better; None if that is nothing, or too much."""
        if self._left() <= 0:
            return None
        alive = self._alive(dual, found, prices)
        graph = self._graph.restricted(alive)
        if graph.pairs > MANAGEABLE and found is not None:
            window = [a & b for a, b in zip(alive, self._window(dual, found), strict=True)]
            better = self._programmed(window, found)
            if better.value > found.value + SLACK:
                return _Found(better.states, better.value, bound)
        return self._programmed(alive, found)

    def _alive(self, dual: Dual, found: _Found | None, prices: Floats) -> list[NDArray[np.bool_]]:
        """States that some solution better than the best so far may have."""
        groups = len(self._graph.names)
        if found is None:
            return [np.ones(size, dtype=np.bool_) for size in self._graph.sizes[:groups]]
        extra = float(prices @ self._limits)
        alive = []
        for state, bests in zip(found.states, dual.bests(prices)[:groups], strict=False):
            mask = bests + extra > found.value + SLACK
            mask[state] = True
            alive.append(mask)
        return alive

    def _window(self, dual: Dual, found: _Found) -> list[NDArray[np.bool_]]:
        """States near the best solution, and near the dual's around the budget."""
        near = sorted(dual.vertices, key=lambda vertex: float(np.max(np.abs(vertex.used - self._limits) / dual.units)))
        masks = []
        for group, size in enumerate(self._graph.sizes[: len(self._graph.names)]):
            states = [found.states[group], *(vertex.states[group] for vertex in near[:2])]
            mask = np.zeros(size, dtype=np.bool_)
            for state in states:
                mask[max(0, state - WINDOW) : state + WINDOW + 1] = True
            masks.append(mask)
        return masks

    def _programmed(self, alive: list[NDArray[np.bool_]], found: _Found | None) -> _Found:
        """HiGHS's solution over some states; the best so far where it finds none that is better."""
        graph = self._graph.restricted(alive)
        solution = Programme(graph).solve(gap=self._gap / 2, time_limit_s=self._left())
        solutions: list[Sequence[int]] = []
        if solution.states is not None:
            polished = spend(self._problem, graph.widths_of(solution.states))
            solutions = [self._graph.states_of(polished)]
        best = self._best(solutions, solution.bound)
        if best is None or (found is not None and found.value >= best.value):
            if found is None:
                raise self._infeasible()
            return _Found(found.states, found.value, max(found.value, solution.bound))
        return best

    # Infeasible -------------------------------------------------------------------------------------------------------

    def _check_each(self, dual: Dual) -> None:
        for number, limit in enumerate(self._limits):
            if dual.cheapest(number).used[number] > limit:
                raise self._infeasible()

    def _infeasible(self) -> InfeasibleError:
        """Which budget is out of reach, and the least that each could be."""
        programme = Programme(self._graph)
        alone, together = self._least(programme, within=False), self._least(programme, within=True)
        out = [name for name, least in alone.items() if least is not None and least > self._problem.budgets[name]]
        if out:
            said = "; ".join(f"{n} cannot be {self._problem.budgets[n]:.6g}: its least is {alone[n]:.6g}" for n in out)
            hint = f"give {out[0]} of at least {alone[out[0]]:.6g}, or a model with more that can be cut"
        else:
            said = "the budgets can be met one by one, but not together"
            apart = [f"{n} of at least {least:.6g}" for n, least in together.items() if least is not None]
            hint = f"with the others as they are, give {' or '.join(apart)}" if apart else "relax some of them"
        return InfeasibleError(said, least={n: v for n, v in alone.items() if v is not None}, hint=hint)

    def _least(self, programme: Programme, *, within: bool) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name in self._problem.budgets:
            rows = [number for number, row in enumerate(self._graph.rows) if row.budget == name]
            found[name] = programme.least(rows, within=within, time_limit_s=max(1.0, self._left()))
        return found


def _limited(graph: Graph, budgets: Mapping[str, float]) -> Graph:
    """The same graph with other limits."""
    rows = tuple(replace(row, limit=room(budgets[row.budget], row.fixed)) for row in graph.rows)
    return replace(graph, rows=rows)


def _by_budget(graph: Graph, prices: Floats) -> dict[str, float]:
    """Saliency that one more unit of each budget is worth."""
    found: dict[str, float] = {}
    for row, price in zip(graph.rows, prices, strict=True):
        found[row.budget] = found.get(row.budget, 0.0) + float(price) * graph.scale
    return found
