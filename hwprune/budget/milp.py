"""A graph as a mixed-integer linear programme, for HiGHS.

One binary per state of a group; for every table over several variables a continuous weight per entry, whose marginals
are the states of its variables (the local polytope: Wainwright and Jordan, "Graphical Models, Exponential Families, and
Variational Inference", 2008, §4.1). Where the groups are integral, all weights are; so nothing else need be.
Huangfu and Hall, "Parallelizing the dual revised simplex method", Math. Prog. Comp. 10, 2018, is HiGHS.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from .graph import Floats, Graph, Scope

OBJECTIVE = 1000.0  # what all saliency together counts: HiGHS's absolute tolerances are small against it
INFEASIBLE = 2  # status of scipy.optimize.milp
TOLERANCE = 2e-6  # relative; by so much HiGHS may exceed a row


@dataclass(frozen=True, eq=False)
class Solution:
    """What HiGHS says.

    Attributes:
        states: of all variables, or None if it found none inside the rows.
        bound: no solution keeps more saliency, over ``Graph.scale``; −inf where there is proof that none exists.
    """

    states: list[int] | None
    bound: float


class Programme:
    """The linear programme of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        offsets = np.concatenate([[0], np.cumsum(graph.sizes)]).astype(np.int64)
        self._first = dict(enumerate(offsets[:-1].tolist()))  # variable → its first column
        self._count = int(offsets[-1])
        self._joint: dict[Scope, NDArray[np.int64]] = {}  # scope → columns of its weights, one axis per variable
        scopes = {scope for row in graph.rows for scope in row.tables if len(scope) > 1}
        for scope in sorted(scopes | {tuple(sorted((one.first, one.second))) for one in graph.sums}):
            shape = [graph.sizes[variable] for variable in scope]
            entries = int(np.prod(shape))
            self._joint[scope] = np.arange(self._count, self._count + entries).reshape(shape)
            self._count += entries
        self._groups = int(offsets[len(graph.names)])
        self._equalities()
        self._limits()

    def _column(self, variable: int) -> NDArray[np.int64]:
        first = self._first[variable]
        return np.arange(first, first + self.graph.sizes[variable])

    def _equalities(self) -> None:
        """One state per group; marginals of weights; sums; ties."""
        parts = _Rows()
        for group in range(len(self.graph.names)):
            parts.add(self._column(group)[None, :], 1.0, right=1.0)
        for scope, columns in self._joint.items():
            for axis, variable in enumerate(scope):
                across = np.moveaxis(columns, axis, 0).reshape(columns.shape[axis], -1)
                parts.add(across, 1.0, minus=self._column(variable))
        for one in self.graph.sums:
            columns = self._joint[tuple(sorted((one.first, one.second)))]
            columns = columns if one.first < one.second else columns.T
            for state, column in enumerate(self._column(one.result)):
                parts.add(columns[one.states == state][None, :], 1.0, minus=np.array([column]))
        for first, second in self.graph.ties:
            gone = [self._column(variable)[self.graph.widths[variable] == 0] for variable in (first, second)]
            parts.add(gone[0][None, :], 1.0, minus=gone[1][None, :])
        self._equal, self._equal_right = parts.matrix(self._count), np.array(parts.right)

    def _limits(self) -> None:
        """Rows in units of their limits."""
        parts, right = _Rows(), []
        for row in self.graph.rows:
            unit = max(abs(row.limit), sum(float(np.abs(table).max()) for table in row.tables.values()) * 1e-3, 1e-12)
            columns, values = [np.zeros(0, np.int64)], [np.zeros(0)]
            for scope, table in row.tables.items():
                where = self._column(scope[0]) if len(scope) == 1 else self._joint[scope]
                columns.append(where.ravel())
                values.append(table.ravel() / unit)
            parts.add(np.concatenate(columns)[None, :], np.concatenate(values)[None, :])
            right.append((unit, row.limit / unit))
        self._cost = parts.matrix(self._count)
        self._units, self._cost_right = (np.array(part) for part in zip(*right, strict=True))

    def _worth(self) -> Floats:
        worth = np.zeros(self._count)
        for group, saliency in enumerate(self.graph.saliency):
            worth[self._column(group)] = OBJECTIVE * saliency
        return worth

    def solve(self, *, gap: float, time_limit_s: float) -> Solution:
        """Most saliency within all rows.

        Args:
            gap: relative, at which HiGHS may stop.
            time_limit_s: after which it stops with what it has.
        """
        right, bound = self._cost_right.copy(), np.inf
        for _ in range(8):  # again with rows a little tighter where its tolerance let a solution through
            found = self._milp(-self._worth(), right, gap=gap, time_limit_s=time_limit_s)
            if found.status == INFEASIBLE:
                return Solution(None, -np.inf if np.isinf(bound) else bound)
            if found.mip_dual_bound is not None and np.isinf(bound):
                bound = -found.mip_dual_bound / OBJECTIVE
            if found.x is None:
                break
            states = self._states(found.x)
            excess = self.graph.used(states) / self._units - self._cost_right
            if np.all(excess <= 0):
                return Solution(states, bound)
            right = np.where(excess > 0, right - np.maximum(2 * excess, TOLERANCE), right)
        return Solution(None, bound)

    def least(self, rows: list[int], *, within: bool, time_limit_s: float) -> float | None:
        """The least that the greatest of some rows can be, ``fixed`` included; None where nothing is inside the others.

        Args:
            rows: numbers of rows of one budget.
            within: whether all other rows must hold.
            time_limit_s: after which the bound is returned instead.
        """
        # One more column, the greatest: every row of the budget is at most that.
        count, chosen = self._count, self._cost[rows].multiply(self._units[rows][:, None]).tocsr()
        scale = max(abs(self.graph.rows[row].limit) + abs(self.graph.rows[row].fixed) for row in rows) or 1.0
        fixed = np.array([self.graph.rows[row].fixed for row in rows])
        at_most = sparse.hstack([chosen / scale, -np.ones((len(rows), 1))]).tocsr()
        constraints = [
            LinearConstraint(sparse.hstack([self._equal, sparse.csr_matrix((self._equal.shape[0], 1))]).tocsr(),
                             self._equal_right, self._equal_right),
            LinearConstraint(at_most, -np.inf, -fixed / scale),
        ]  # fmt: skip
        others = [row for row in range(len(self.graph.rows)) if row not in rows]
        if within and others:
            wide = sparse.hstack([self._cost[others], sparse.csr_matrix((len(others), 1))]).tocsr()
            constraints.append(LinearConstraint(wide, -np.inf, self._cost_right[others]))
        integral = np.r_[self._integrality(), 0]
        found = milp(
            np.r_[np.zeros(count), 1.0],
            constraints=constraints,
            integrality=integral,
            bounds=Bounds(np.r_[np.zeros(count), -np.inf], np.r_[np.ones(count), np.inf]),
            options={"time_limit": time_limit_s, "mip_rel_gap": 1e-9},
        )
        if found.x is None:
            return None if found.status == INFEASIBLE or found.mip_dual_bound is None else found.mip_dual_bound * scale
        used = self.graph.used(self._states(found.x[:-1]))
        return float(max(used[row] + self.graph.rows[row].fixed for row in rows))

    def relaxed(self) -> tuple[float, Floats] | None:
        """The linear relaxation's bound, over ``Graph.scale``, and its prices per unit of each row."""
        found = linprog(
            -self._worth(), A_ub=self._cost, b_ub=self._cost_right, A_eq=self._equal, b_eq=self._equal_right,
            bounds=(0, 1), method="highs",
        )  # fmt: skip
        if found.x is None:
            return None
        return -found.fun / OBJECTIVE, -found.ineqlin.marginals / OBJECTIVE / self._units

    def _integrality(self) -> NDArray[np.int64]:
        integral = np.zeros(self._count, dtype=np.int64)
        integral[: self._groups] = 1
        return integral

    def _milp(self, worth: Floats, right: Floats, *, gap: float, time_limit_s: float) -> Any:
        return milp(
            worth,
            constraints=[
                LinearConstraint(self._equal, self._equal_right, self._equal_right),
                LinearConstraint(self._cost, -np.inf, right),
            ],
            integrality=self._integrality(),
            bounds=Bounds(0, 1),
            options={"time_limit": time_limit_s, "mip_rel_gap": gap},
        )

    def _states(self, values: Floats) -> list[int]:
        states = [int(np.argmax(values[self._column(group)])) for group in range(len(self.graph.names))]
        return self.graph.completed(states)


class _Rows:
    """Rows of a sparse matrix, added in blocks."""

    def __init__(self) -> None:
        self.right: list[float] = []
        self._entries: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]] = []

    def add(
        self,
        columns: NDArray[np.int64],
        values: float | Floats,
        *,
        minus: NDArray[np.int64] | None = None,
        right: float = 0.0,
    ) -> None:
        """Rows with values at columns (rows, entries); less 1 at ``minus``, (rows,) or (rows, entries)."""
        start, count = len(self.right), len(columns)
        rows = np.broadcast_to(np.arange(start, start + count)[:, None], columns.shape)
        self._entries.append((rows.ravel(), columns.ravel(), np.broadcast_to(values, columns.shape).ravel()))
        if minus is not None:
            others = minus.reshape(count, -1)
            rows = np.broadcast_to(np.arange(start, start + count)[:, None], others.shape)
            self._entries.append((rows.ravel(), others.ravel(), -np.ones(others.size)))
        self.right += itertools.repeat(right, count)

    def matrix(self, columns: int) -> sparse.csr_matrix:
        """Everything added, as a matrix."""
        rows, places, values = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        return sparse.csr_matrix((values, (rows, places)), shape=(len(self.right), columns))
