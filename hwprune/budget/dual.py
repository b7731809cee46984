"""The Lagrangian dual of a problem: budgets become prices, and what is left is solved exactly.

``L(λ) = max_states Σ saliency − Σ_r λ_r (cost_r − limit_r)`` is an upper bound on the best saliency for every λ ≥ 0
(Everett, "Generalized Lagrange multiplier method", Operations Research 11, 1963). It is the maximum of the lines that
its solutions are, so the least one is found by cutting planes (Kelley, "The cutting-plane method for solving convex
programs", SIAM J. 8, 1960); with one budget that is a search along the upper hull of (cost, saliency).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog

from .elimination import Elimination
from .graph import Floats, Graph, Scope

ROUNDS = 60  # of cutting planes with several rows
CLOSE = 1e-9  # relative


@dataclass(frozen=True, eq=False)
class Vertex:
    """A solution of the dual's inner problem.

    Attributes:
        states: of all variables.
        value: saliency kept, over ``Graph.scale``.
        used: what the rows come to, without their fixed parts; shape (rows,).
    """

    states: tuple[int, ...]
    value: float
    used: Floats


@dataclass(eq=False)
class Dual:
    """A graph's inner problem, with every solution seen so far; they serve any limits.

    Attributes:
        graph: the graph.
        vertices: the solutions, in the order they were found.
    """

    graph: Graph
    vertices: list[Vertex] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._elimination = Elimination(self.graph)
        self._seen: dict[tuple[int, ...], Vertex] = {}
        # Rows in units of their own range, so that prices are of the same order.
        spans = [sum(float(np.ptp(table)) for table in row.tables.values()) for row in self.graph.rows]
        self.units: Floats = np.array([span or 1.0 for span in spans])

    def at(self, prices: Floats) -> Vertex:
        """The best solution at these prices, in saliency per unit of each row; shape (rows,)."""
        _, states = self._elimination.best(self.tables(prices))
        return self._noted(states)

    def bests(self, prices: Floats) -> list[Floats]:
        """For every state of every variable, the greatest saliency less costs with it."""
        return self._elimination.bests(self.tables(prices))

    def cheapest(self, row: int) -> Vertex:
        """A solution of least cost in one row."""
        tables = {scope: -table / self.units[row] for scope, table in self.graph.rows[row].tables.items()}
        return self._noted(self._elimination.best(tables)[1])

    def tables(self, prices: Floats) -> dict[Scope, Floats]:
        """Worth of states: saliency less costs."""
        found: dict[Scope, Floats] = {(index,): worth.copy() for index, worth in enumerate(self.graph.saliency)}
        for row, amount in zip(self.graph.rows, prices, strict=True):
            if amount:
                for scope, table in row.tables.items():
                    found[scope] = found[scope] - amount * table if scope in found else -amount * table
        return found

    def _noted(self, states: list[int]) -> Vertex:
        key = tuple(states)
        if key not in self._seen:
            self._seen[key] = Vertex(key, self.graph.value(states), self.graph.used(states))
            self.vertices.append(self._seen[key])
        return self._seen[key]

    def minimise(self, limits: Floats) -> tuple[float, Floats]:
        """The least upper bound for some limits, and the prices that give it.

        Args:
            limits: of every row, shape (rows,); some solution is inside each of them.

        Returns:
            the bound, over ``Graph.scale``, and prices, shape (rows,).
        """
        free = self.at(np.zeros(len(limits)))
        if np.all(free.used <= limits):
            return free.value, np.zeros(len(limits))
        return self._along_the_hull(limits) if len(limits) == 1 else self._by_planes(limits)

    def _along_the_hull(self, limits: Floats) -> tuple[float, Floats]:
        """One row: the two vertices around the limit, of all those on the hull."""
        limit = float(limits[0])
        over = self.at(np.zeros(1))
        under = self.cheapest(0)
        for vertex in self.vertices:  # of earlier limits
            if vertex.used[0] <= limit and vertex.value > under.value:
                under = vertex
        while True:
            price = max(0.0, (over.value - under.value) / (float(over.used[0]) - float(under.used[0])))
            prices = np.array([price])
            found = self.at(prices)
            bound = found.value - price * (float(found.used[0]) - limit)
            line = under.value - price * (float(under.used[0]) - limit)
            if bound <= line + CLOSE * max(1.0, abs(line)) or found in (over, under):
                return max(bound, line), prices
            over, under = (over, found) if found.used[0] <= limit else (found, under)

    def _by_planes(self, limits: Floats) -> tuple[float, Floats]:
        """Several rows: a linear programme over the prices proposes, the inner problem answers."""
        for row in range(len(limits)):
            self.cheapest(row)
        best, chosen = np.inf, np.zeros(len(limits))
        most = 10.0  # of a price, in saliency per unit of a row
        for _ in range(ROUNDS):
            known = self.vertices
            slack = np.array([(limits - vertex.used) / self.units for vertex in known])
            rows = np.hstack([slack, -np.ones((len(known), 1))])
            bounds = [(0.0, most)] * len(limits) + [(None, None)]
            proposed = linprog(
                np.r_[np.zeros(len(limits)), 1.0], A_ub=rows, b_ub=[-v.value for v in known], bounds=bounds
            )
            if proposed.x is None:
                break
            scaled = proposed.x[:-1]
            vertex = self.at(scaled / self.units)
            bound = vertex.value + float(scaled @ ((limits - vertex.used) / self.units))
            if bound < best:
                best, chosen = bound, scaled / self.units
            if best - float(proposed.x[-1]) <= CLOSE * max(1.0, abs(best)):
                if np.all(scaled < most * (1 - CLOSE)):
                    break
                most *= 10.0
        return best, chosen

    def hull(self, row: int = 0, most: int = 200) -> list[Vertex]:
        """Solutions that are best at some price of one row, by rising cost: the frontier's upper hull.

        Args:
            row: whose cost.
            most: after how many solutions no more are looked for.
        """
        prices = np.zeros(len(self.graph.rows))
        left, right = self.cheapest(row), self.at(prices)
        found, waiting = {left.states: left, right.states: right}, [(left, right)]
        while waiting and len(found) < most:
            low, high = waiting.pop(0)
            if high.used[row] <= low.used[row]:
                continue
            prices[row] = max(0.0, (high.value - low.value) / float(high.used[row] - low.used[row]))
            middle = self.at(prices)
            gain = (middle.value - low.value) - prices[row] * float(middle.used[row] - low.used[row])
            if gain > CLOSE and middle.states not in found:
                found[middle.states] = middle
                waiting += [(low, middle), (middle, high)]
        return sorted(found.values(), key=lambda vertex: float(vertex.used[row]))
