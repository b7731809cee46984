"""The best states of all variables of a graph under prices: exactly, one variable after the other.

Max-sum variable elimination (Bertelè and Brioschi, "Nonserial Dynamic Programming", 1972; Koller and Friedman,
"Probabilistic Graphical Models", 2009, ch. 9, 13): a variable is maximised out of the sum of all tables it is in, which
leaves a table over its neighbours. The order is chosen once, by the smallest table that is left. How large tables
become is decided by the graph: small for chains, residual networks and concatenations along a chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Floats, Graph, Scope

MOST_ENTRIES = 30_000_000  # of all tables together: 240 MB
NEVER = -1e30  # of states that exclude each other; finite, so that differences stay numbers


class TooWide(Exception):
    """Elimination would need tables that are too large."""


@dataclass(frozen=True)
class _Bucket:
    """A variable, with its neighbours at the time it is eliminated.

    Attributes:
        scope: the variable, then the neighbours, ascending.
        parent: the bucket that its message goes to; −1 for none.
    """

    scope: Scope
    parent: int


class Elimination:
    """A plan to maximise sums of tables over the variables of a graph.

    Args:
        graph: its sums and ties are always respected.

    Raises:
        TooWide: all tables together may have ``MOST_ENTRIES``.
    """

    def __init__(self, graph: Graph) -> None:
        self._sizes = graph.sizes
        self._hard = {**_sums(graph), **_ties(graph)}
        scopes = {scope for row in graph.rows for scope in row.tables} | set(self._hard)
        scopes |= {(variable,) for variable in range(len(graph.names))}
        self._buckets = _planned(graph.sizes, scopes)
        place = {bucket.scope[0]: number for number, bucket in enumerate(self._buckets)}
        self._home = {scope: min(place[variable] for variable in scope) for scope in scopes}

    def best(self, tables: Mapping[Scope, Floats]) -> tuple[float, list[int]]:
        """The greatest sum, and the states that have it.

        Args:
            tables: variables, ascending → worth, one axis per variable.
        """
        combined, messages = self._forward(tables)
        states = [0] * len(self._sizes)
        for bucket, table in zip(reversed(self._buckets), reversed(combined), strict=True):
            beside: Any = (slice(None), *(states[variable] for variable in bucket.scope[1:]))
            states[bucket.scope[0]] = int(np.argmax(table[beside]))
        roots = [m for bucket, m in zip(self._buckets, messages, strict=True) if bucket.parent < 0]
        return float(sum(float(message) for message in roots)), states

    def bests(self, tables: Mapping[Scope, Floats]) -> list[Floats]:
        """For every state of every variable, the greatest sum with that state.

        Args:
            tables: as for :meth:`best`.
        """
        combined, messages = self._forward(tables)
        whole = sum(float(m) for bucket, m in zip(self._buckets, messages, strict=True) if bucket.parent < 0)
        found: list[Floats] = [np.zeros(0)] * len(self._sizes)
        for number in range(len(self._buckets) - 1, -1, -1):
            bucket, table = self._buckets[number], combined[number]
            if bucket.parent < 0:
                table += whole - float(messages[number])
            else:
                parent = self._buckets[bucket.parent].scope
                rest = tuple(axis for axis, variable in enumerate(parent) if variable not in bucket.scope[1:])
                above = combined[bucket.parent].max(axis=rest)  # axes in the parent's order
                order = [variable for variable in parent if variable in bucket.scope[1:]]
                above = np.transpose(above, [order.index(variable) for variable in bucket.scope[1:]])
                table += (above - messages[number])[None]
            found[bucket.scope[0]] = table.max(axis=tuple(range(1, table.ndim)))
        return found

    def _forward(self, tables: Mapping[Scope, Floats]) -> tuple[list[Floats], list[Floats]]:
        combined = [np.zeros([self._sizes[v] for v in bucket.scope]) for bucket in self._buckets]
        for scope, table in (*tables.items(), *self._hard.items()):
            number = self._home[scope]
            combined[number] += _spread(table, scope, self._buckets[number].scope)
        messages: list[Floats] = []
        for bucket, table in zip(self._buckets, combined, strict=True):
            message = table.max(axis=0)
            messages.append(message)
            if bucket.parent >= 0:
                combined[bucket.parent] += _spread(message, bucket.scope[1:], self._buckets[bucket.parent].scope)
        return combined, messages


def _spread(table: Floats, scope: Scope, wider: Scope) -> Floats:
    """A table with one axis per variable of a wider scope, of length 1 where it has none."""
    order = sorted(range(len(scope)), key=lambda axis: wider.index(scope[axis]))
    shape = [1] * len(wider)
    for axis in order:
        shape[wider.index(scope[axis])] = table.shape[axis]
    return np.transpose(table, order).reshape(shape)


def _planned(sizes: Sequence[int], scopes: Iterable[Scope]) -> list[_Bucket]:
    """Eliminate the variable next whose table is smallest; of equals, the first."""
    neighbours: dict[int, set[int]] = {variable: set() for variable in range(len(sizes))}
    for scope in scopes:
        for variable in scope:
            neighbours[variable] |= set(scope) - {variable}
    order: list[int] = []
    scoped: list[Scope] = []
    left = MOST_ENTRIES
    while neighbours:
        entries = {v: math.prod(sizes[n] for n in near) * sizes[v] for v, near in neighbours.items()}
        chosen = min(entries, key=lambda variable: (entries[variable], variable))
        left -= entries[chosen]
        if left < 0:
            raise TooWide
        near = neighbours.pop(chosen)
        for variable in near:
            neighbours[variable] |= near - {variable}
            neighbours[variable].discard(chosen)
        order.append(chosen)
        scoped.append((chosen, *sorted(near)))
    place = {variable: number for number, variable in enumerate(order)}
    parents = [min((place[variable] for variable in scope[1:]), default=-1) for scope in scoped]
    return [_Bucket(scope, parent) for scope, parent in zip(scoped, parents, strict=True)]


def _sums(graph: Graph) -> dict[Scope, Floats]:
    found: dict[Scope, Floats] = {}
    for one in graph.sums:
        table = np.where(one.states[:, :, None] == np.arange(graph.sizes[one.result]), 0.0, NEVER)
        order = np.argsort((one.first, one.second, one.result))
        scope = tuple(sorted((one.first, one.second, one.result)))
        found[scope] = np.transpose(table, order)
    return found


def _ties(graph: Graph) -> dict[Scope, Floats]:
    """Removed together, or not at all; removed is state 0, and where it cannot be any more there is none."""
    found: dict[Scope, Floats] = {}
    for first, second in graph.ties:
        gone: list[NDArray[np.bool_]] = [graph.widths[variable] == 0 for variable in (first, second)]
        table = np.where(gone[0][:, None] == gone[1][None, :], 0.0, NEVER)
        scope = tuple(sorted((first, second)))
        found[scope] = table if scope == (first, second) else table.T
    return found
