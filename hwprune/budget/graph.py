"""A problem as variables with few states and tables over some of them: what the joint solvers work on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import InputError

from .axis import Addend
from .problem import Cost, CostAxis, Problem

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Scope = tuple[int, ...]
ROUNDING = 1e-12  # relative; sums in another order differ by so much, and a limit may be one exactly


@dataclass(frozen=True, eq=False)
class Row:
    """One bound: the sum of its tables is at most ``limit``.

    Attributes:
        budget: its name.
        step: of the budget, "" if it has none.
        limit: what is left of it, rounding forgiven, after everything that does not depend on any variable.
        fixed: that part.
        tables: variables, ascending → costs, one axis per variable; what is 0 everywhere is left out.
    """

    budget: str
    step: str
    limit: float
    fixed: float
    tables: Mapping[Scope, Floats]


@dataclass(frozen=True, eq=False)
class Sum:
    """A variable that two others determine, by their sum or their product; any two of the three tell the third.

    Attributes:
        first: a variable.
        second: a variable.
        result: the variable that stands for both together.
        states: its state at each of theirs, shape (states of first, states of second).
    """

    first: int
    second: int
    result: int
    states: Indices


@dataclass(frozen=True, eq=False)
class Graph:
    """A problem over variables: the groups, and sums and products of them.

    The sizes of a dimension that depends on several groups (a concatenation; heads and their size) are a variable of
    their own, built up group by group, so that every cost is a table over the variables of its axes; dimensions that
    begin or end alike share what is alike.

    Attributes:
        names: of the groups; they are the first variables.
        widths: of every group, by state; a group that can be removed has 0 first.
        sizes: number of states of every variable.
        saliency: of every group, by state.
        rows: all bounds.
        sums: in an order in which they can be computed.
        ties: pairs of groups that vanish together.
        scale: total saliency of the widest network, or 1; ``saliency`` is divided by it.
    """

    names: tuple[str, ...]
    widths: tuple[Indices, ...]
    sizes: tuple[int, ...]
    saliency: tuple[Floats, ...]
    rows: tuple[Row, ...]
    sums: tuple[Sum, ...]
    ties: tuple[tuple[int, int], ...]
    scale: float

    @property
    def pairs(self) -> int:
        """Entries of all joint tables: how large the linear programme is."""
        scopes = {scope for row in self.rows for scope in row.tables if len(scope) > 1}
        joint = {*scopes, *(tuple(sorted((one.first, one.second))) for one in self.sums)}
        return sum(int(np.prod([self.sizes[variable] for variable in scope])) for scope in joint)

    def widths_of(self, states: Sequence[int]) -> dict[str, int]:
        """Group name → width at these states of the variables."""
        return {name: int(self.widths[index][states[index]]) for index, name in enumerate(self.names)}

    def states_of(self, widths: Mapping[str, int]) -> list[int]:
        """States of all variables at these widths."""
        states = [int(np.flatnonzero(self.widths[index] == widths[name])[0]) for index, name in enumerate(self.names)]
        return self.completed(states)

    def completed(self, states: Sequence[int]) -> list[int]:
        """States of the groups, and of the sums that follow from them."""
        found = [*states[: len(self.names)], *[0] * (len(self.sizes) - len(self.names))]
        for one in self.sums:
            found[one.result] = int(one.states[found[one.first], found[one.second]])
        return found

    def value(self, states: Sequence[int]) -> float:
        """Saliency kept at these states, over ``scale``."""
        return float(sum(saliency[state] for saliency, state in zip(self.saliency, states, strict=False)))

    def used(self, states: Sequence[int]) -> Floats:
        """What the rows come to at these states, without ``fixed``; shape (rows,)."""
        return np.array(
            [
                sum(table[tuple(states[variable] for variable in scope)] for scope, table in row.tables.items())
                for row in self.rows
            ],
            dtype=np.float64,
        )

    def restricted(self, alive: Sequence[NDArray[np.bool_]]) -> Graph:
        """The same graph with some states of the groups only; states of sums that nothing leads to go with them.

        Args:
            alive: for every group, which of its states stay; at least one each.
        """
        kept = [np.flatnonzero(mask) for mask in alive]
        sums = []
        for one in self.sums:
            reached = one.states[np.ix_(kept[one.first], kept[one.second])]
            found, places = np.unique(reached, return_inverse=True)
            kept.append(found)
            sums.append(replace(one, states=places.reshape(reached.shape).astype(np.int64)))
        rows = []
        for row in self.rows:
            tables = {s: table[np.ix_(*(kept[variable] for variable in s))] for s, table in row.tables.items()}
            rows.append(replace(row, tables=tables))
        return replace(
            self,
            widths=tuple(widths[place] for widths, place in zip(self.widths, kept, strict=False)),
            sizes=tuple(len(place) for place in kept),
            saliency=tuple(saliency[place] for saliency, place in zip(self.saliency, kept, strict=False)),
            rows=tuple(rows),
            sums=tuple(sums),
        )


def graph_of(problem: Problem) -> Graph:
    """The graph of a problem.

    Raises:
        InputError: a cost's table does not cover a size that the widths lead to.
    """
    removable, names = problem.removable, tuple(problem.groups)
    widths = tuple(
        np.array([*((0,) if name in removable else ()), *choices.widths], dtype=np.int64)
        for name, choices in problem.groups.items()
    )
    kept = [
        np.array([*((0.0,) if name in removable else ()), *choices.saliency])
        for name, choices in problem.groups.items()
    ]
    scale = float(sum(np.abs(saliency).max() for saliency in kept)) or 1.0
    variables = _Variables(problem, widths)
    sums: dict[tuple[str, str], dict[Scope, Floats]] = {}
    for cost in problem.costs:
        if cost.budget in problem.budgets:
            scope, table = variables.table(cost)
            tables = sums.setdefault((cost.budget, cost.step), {})
            tables[scope] = tables.get(scope, np.zeros(table.shape)) + table
    ties = [(names.index(first), names.index(other)) for first, *others in problem.blocks.values() for other in others]
    return Graph(
        names=names,
        widths=widths,
        sizes=tuple(len(values) for values in variables.values),
        saliency=tuple(saliency / scale for saliency in kept),
        rows=tuple(_rows(problem.budgets, sums)),
        sums=tuple(variables.sums),
        ties=tuple(ties),
        scale=scale,
    )


def _rows(budgets: Mapping[str, float], sums: Mapping[tuple[str, str], Mapping[Scope, Floats]]) -> Iterator[Row]:
    """One row per budget, or one per step of it: always together with what is incurred always."""
    for budget, limit in budgets.items():
        steps = [step for name, step in sums if name == budget and step] or [""]
        for step in steps:
            tables: dict[Scope, Floats] = {}
            for part in {"", step}:
                for scope, table in sums.get((budget, part), {}).items():
                    tables[scope] = tables.get(scope, np.zeros(table.shape)) + table
            fixed = float(tables.pop((), np.zeros(())))
            yield Row(budget, step, room(limit, fixed), fixed, {s: t for s, t in tables.items() if np.any(t)})


def room(limit: float, fixed: float) -> float:
    """What a limit leaves, rounding forgiven; whether it holds is judged by the problem's own sums in the end."""
    return limit - fixed + ROUNDING * abs(limit)


class _Variables:
    """Collects the variables that costs ask for."""

    def __init__(self, problem: Problem, widths: Sequence[Indices]) -> None:
        self._groups = {name: index for index, name in enumerate(problem.groups)}
        self._block_of = {group: members for members in problem.blocks.values() for group in members}
        self.values: list[Indices] = list(widths)  # of every variable, by state
        self.sums: list[Sum] = []
        self._known: dict[tuple[Addend, ...], tuple[int, Indices]] = {}

    def _variable(self, addends: tuple[Addend, ...]) -> tuple[int, Indices]:
        """The variable for a sum of groups and products of groups, and the sum at each of its states."""
        if len(addends) == 1 and len(addends[0][0]) == 1:
            (((group,), multiplier),) = addends
            return self._groups[group], multiplier * self.values[self._groups[group]]
        if addends not in self._known:
            if len(addends) == 1:
                ((names, multiplier),) = addends
                parts = self._variable(((names[:-1], 1),)), self._variable(((names[-1:], multiplier),))
                values = parts[0][1][:, None] * parts[1][1][None, :]
            else:
                ends = (place for place in range(1, len(addends) - 1) if addends[place:] in self._known)
                end = next(ends, len(addends) - 1)  # the longest that is known already, else the last group
                parts = self._variable(addends[:end]), self._variable(addends[end:])
                values = parts[0][1][:, None] + parts[1][1][None, :]
            self._known[addends] = self._determined(parts[0][0], parts[1][0], values)
        return self._known[addends]

    def _determined(self, first: int, second: int, values: Indices) -> tuple[int, Indices]:
        """A new variable with these values, shape (states of first, states of second); any two tell the third."""
        sizes, states = np.unique(values, return_inverse=True)
        states = states.reshape(values.shape)
        if any(np.any(np.diff(np.sort(states, axis), axis=axis) == 0) for axis in (0, 1)):  # a width of 0 in a product
            sizes, states = values.ravel(), np.arange(values.size).reshape(values.shape)
        self.values.append(sizes)
        self.sums.append(Sum(first, second, len(self.values) - 1, states.astype(np.int64)))
        return len(self.values) - 1, sizes

    def table(self, cost: Cost) -> tuple[Scope, Floats]:
        """A cost over variables, ascending."""
        parts = [self._axis(axis, cost) for axis in cost.axes]
        scope: Scope = tuple(sorted({variable for variable, _ in parts if variable >= 0}))
        shown = self._groups[cost.present] if cost.present else -1
        if shown >= 0 and shown not in scope:
            scope = tuple(sorted((*scope, shown)))
        index = []
        for variable, places in parts:
            shape = [1] * len(scope)
            if variable >= 0:
                shape[scope.index(variable)] = -1
            index.append(places.reshape(shape))
        found = np.asarray(cost.table[tuple(index)] if index else cost.table, dtype=np.float64)
        table = np.array(np.broadcast_to(found, [len(self.values[variable]) for variable in scope]))
        if shown >= 0:
            gone = np.moveaxis(table, scope.index(shown), 0)
            gone[self.values[shown] == 0] = 0.0
        return scope, table

    def _axis(self, axis: CostAxis, cost: Cost) -> tuple[int, Indices]:
        """The variable of an axis, −1 for none, and the position in the table at each of its states."""
        if not axis.axis.addends:
            return -1, np.atleast_1d(axis.index({}))
        variable, sums = self._variable(axis.axis.addends)
        sizes, wanted = np.asarray(axis.sizes), sums + axis.axis.fixed
        places = np.minimum(np.searchsorted(sizes, wanted), len(sizes) - 1)
        missing = sizes[places] != wanted
        if cost.present:  # while its block is gone nothing is looked up
            missing &= np.isin(sums, self._while_there(cost.present, axis.axis.addends))
        if np.any(missing):
            raise InputError(
                f"cost {cost.name!r} has no entry for {int(wanted[missing][0])} channels",
                hint=f"it covers {', '.join(map(str, axis.sizes))}",
            )
        return variable, places.astype(np.int64)

    def _while_there(self, present: str, addends: Iterable[Addend]) -> Indices:
        """What some groups can sum to while a block is there."""
        found = np.zeros(1, dtype=np.int64)
        for names, multiplier in addends:
            values = np.full(1, multiplier, dtype=np.int64)
            for name in names:
                widths = self.values[self._groups[name]]
                if name in self._block_of.get(present, ()):
                    widths = widths[widths > 0]
                values = np.unique(values[:, None] * widths[None, :])
            found = np.unique(found[:, None] + values[None, :])
        return found
