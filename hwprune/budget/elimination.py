"""The best states of all variables of a graph under prices: exactly, one variable after the other.

Max-sum variable elimination (Bertelè and Brioschi, "Nonserial Dynamic Programming", 1972; Koller and Friedman,
"Probabilistic Graphical Models", 2009, ch. 9, 13): a variable is maximised out of the sum of all tables it is in, which
leaves a table over its neighbours. A variable of a sum whose two others are still there needs no maximum: they say what
it is, so it is looked up, and no table has an axis for it. The order is chosen once, by the smallest table that is
left. How large tables become is decided by the graph: small for chains, residual networks, and concatenations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Floats, Graph, Indices, Scope, Sum

MOST_ENTRIES = 30_000_000  # of all tables together: 240 MB
NEVER = -1e30  # of states that exclude each other; finite, so that differences stay numbers


class TooWide(Exception):
    """Elimination would need tables that are too large."""


@dataclass(frozen=True, eq=False)
class _Bucket:
    """A variable, with its neighbours at the time it is eliminated.

    Attributes:
        variable: it.
        axes: the variables of the bucket's table: the variable, then its neighbours, ascending; without the variable
            where two of them determine it.
        parent: the bucket that its message goes to; −1 for none.
        given: the two that determine it, ascending; none.
        states: its state at each of theirs, −1 where there is none.
    """

    variable: int
    axes: Scope
    parent: int
    given: Scope
    states: Indices

    @property
    def rest(self) -> Scope:
        """Its neighbours: what its message is over."""
        return self.axes if self.given else self.axes[1:]


class Elimination:
    """A plan to maximise sums of tables over the variables of a graph.

    Args:
        graph: its sums and ties are always respected.

    Raises:
        TooWide: all tables together may have ``MOST_ENTRIES``.
    """

    def __init__(self, graph: Graph) -> None:
        self._sizes = graph.sizes
        sums: dict[Scope, Sum] = {_scope(one): one for one in graph.sums}
        ties = _ties(graph)
        scopes = {*sums, *ties, *(scope for row in graph.rows for scope in row.tables)}
        scopes |= {(variable,) for variable in range(len(graph.names))}
        self._buckets = _planned(graph.sizes, scopes, sums)
        looked_up = {tuple(sorted((bucket.variable, *bucket.given))) for bucket in self._buckets}
        self._hard = {**{s: _sum_table(one, graph.sizes) for s, one in sums.items() if s not in looked_up}, **ties}
        place = {bucket.variable: number for number, bucket in enumerate(self._buckets)}
        self._home = {scope: min(place[variable] for variable in scope) for scope in scopes}

    def best(self, tables: Mapping[Scope, Floats]) -> tuple[float, list[int]]:
        """The greatest sum, and the states that have it.

        Args:
            tables: variables, ascending → worth, one axis per variable.
        """
        combined, messages = self._forward(tables)
        states = [0] * len(self._sizes)
        for bucket, table in zip(reversed(self._buckets), reversed(combined), strict=True):
            if bucket.given:
                states[bucket.variable] = int(bucket.states[tuple(states[variable] for variable in bucket.given)])
            else:
                beside: Any = (slice(None), *(states[variable] for variable in bucket.rest))
                states[bucket.variable] = int(np.argmax(table[beside]))
        return self._whole(messages), states

    def bests(self, tables: Mapping[Scope, Floats]) -> list[Floats]:
        """For every state of every variable, the greatest sum with that state.

        Args:
            tables: as for :meth:`best`.
        """
        combined, messages = self._forward(tables)
        whole = self._whole(messages)
        found: list[Floats] = [np.zeros(0)] * len(self._sizes)
        for number in range(len(self._buckets) - 1, -1, -1):
            bucket = self._buckets[number]
            if bucket.parent < 0:
                combined[number] += whole - float(messages[number])
            else:
                above = self._greatest(combined[bucket.parent], self._buckets[bucket.parent], bucket.rest)
                combined[number] = above if bucket.given else combined[number] + (above - messages[number])[None]
            found[bucket.variable] = self._greatest(combined[number], bucket, (bucket.variable,))
        return found

    def _whole(self, messages: Sequence[Floats]) -> float:
        return float(sum(float(m) for bucket, m in zip(self._buckets, messages, strict=True) if bucket.parent < 0))

    def _forward(self, tables: Mapping[Scope, Floats]) -> tuple[list[Floats], list[Floats]]:
        combined = [np.zeros([self._sizes[variable] for variable in bucket.axes]) for bucket in self._buckets]
        for bucket, table in zip(self._buckets, combined, strict=True):
            if bucket.given:
                table += _spread(np.where(bucket.states < 0, NEVER, 0.0), bucket.given, bucket.axes)
        for scope, table in (*tables.items(), *self._hard.items()):
            number = self._home[scope]
            combined[number] += self._placed(table, scope, self._buckets[number])
        messages: list[Floats] = []
        for bucket, table in zip(self._buckets, combined, strict=True):
            message = table if bucket.given else table.max(axis=0)
            messages.append(message)
            if bucket.parent >= 0:
                combined[bucket.parent] += self._placed(message, bucket.rest, self._buckets[bucket.parent])
        return combined, messages

    def _placed(self, table: Floats, scope: Scope, bucket: _Bucket) -> Floats:
        """A table over a bucket's axes, of length 1 where it does not depend on one."""
        if not bucket.given:
            return _spread(table, scope, bucket.axes)
        return table[self._places(scope, bucket, bucket.axes)]

    def _places(self, scope: Scope, bucket: _Bucket, axes: Scope) -> tuple[Indices, ...]:
        """States of the variables of a scope at every place of some axes, where the bucket's variable is looked up."""
        found = []
        for variable in scope:
            if variable == bucket.variable:
                found.append(_spread(np.maximum(bucket.states, 0), bucket.given, axes))
            else:
                found.append(_spread(np.arange(self._sizes[variable]), (variable,), axes))
        return tuple(found)

    def _greatest(self, table: Floats, bucket: _Bucket, wanted: Scope) -> Floats:
        """A bucket's table, maximised over all variables but some of its own; their axes ascend."""
        needed = {*wanted, *(bucket.given if bucket.variable in wanted else ())}
        left = tuple(variable for variable in bucket.axes if variable in needed)
        table = table.max(axis=tuple(axis for axis, variable in enumerate(bucket.axes) if variable not in needed))
        if bucket.variable not in wanted or not bucket.given:
            return np.transpose(table, [left.index(variable) for variable in wanted])
        shape = tuple(self._sizes[variable] for variable in wanted)
        found = np.full(math.prod(shape), NEVER)
        places = np.ravel_multi_index(np.broadcast_arrays(*self._places(wanted, bucket, left)), shape)
        np.maximum.at(found, np.broadcast_to(places, table.shape).ravel(), table.ravel())
        return found.reshape(shape)


def _spread(table: NDArray[Any], scope: Scope, wider: Scope) -> NDArray[Any]:
    """A table with one axis per variable of a wider scope, of length 1 where it has none."""
    order = sorted(range(len(scope)), key=lambda axis: wider.index(scope[axis]))
    shape = [1] * len(wider)
    for axis in order:
        shape[wider.index(scope[axis])] = table.shape[axis]
    return np.transpose(table, order).reshape(shape)


def _planned(sizes: Sequence[int], scopes: Iterable[Scope], sums: Mapping[Scope, Sum]) -> list[_Bucket]:
    """Eliminate the variable next whose table is smallest; of equals, the first."""
    neighbours: dict[int, set[int]] = {variable: set() for variable in range(len(sizes))}
    for scope in scopes:
        for variable in scope:
            neighbours[variable] |= set(scope) - {variable}
    waiting, left = dict(sums), MOST_ENTRIES
    chosen: list[tuple[int, Scope, Sum | None]] = []  # with its neighbours, and the sum that says what it is
    while neighbours:
        summed = {variable for scope in waiting for variable in scope}
        entries = {
            v: math.prod(sizes[n] for n in near) * (1 if v in summed else sizes[v]) for v, near in neighbours.items()
        }
        variable = min(entries, key=lambda v: (entries[v], v))
        left -= entries[variable]
        if left < 0:
            raise TooWide
        near = neighbours.pop(variable)
        for other in near:
            neighbours[other] |= near - {other}
            neighbours[other].discard(variable)
        mine = [scope for scope in waiting if variable in scope]
        chosen.append((variable, tuple(sorted(near)), waiting[mine[0]] if mine else None))
        waiting = {scope: one for scope, one in waiting.items() if scope not in mine}
    place = {variable: number for number, (variable, _, _) in enumerate(chosen)}
    return [
        _bucket(variable, near, min((place[other] for other in near), default=-1), one, sizes)
        for variable, near, one in chosen
    ]


def _bucket(variable: int, near: Scope, parent: int, one: Sum | None, sizes: Sequence[int]) -> _Bucket:
    if one is None:
        return _Bucket(variable, (variable, *near), parent, (), np.zeros(0, dtype=np.int64))
    trio = (one.first, one.second, one.result)
    given: Scope = tuple(sorted(set(trio) - {variable}))
    at = [np.arange(sizes[one.first])[:, None], np.arange(sizes[one.second])[None, :], one.states]
    states = np.full([sizes[other] for other in given], -1, dtype=np.int64)
    places = [np.broadcast_to(at[trio.index(other)], one.states.shape) for other in (*given, variable)]
    states[places[0], places[1]] = places[2]
    return _Bucket(variable, near, parent, given, states)


def _scope(one: Sum) -> Scope:
    return tuple(sorted((one.first, one.second, one.result)))


def _sum_table(one: Sum, sizes: Sequence[int]) -> Floats:
    """A sum, as a table over its three variables, ascending."""
    table = np.where(one.states[:, :, None] == np.arange(sizes[one.result]), 0.0, NEVER)
    return np.transpose(table, np.argsort((one.first, one.second, one.result)))


def _ties(graph: Graph) -> dict[Scope, Floats]:
    """Removed together, or not at all; removed is state 0, and where it cannot be any more there is none."""
    found: dict[Scope, Floats] = {}
    for first, second in graph.ties:
        gone: list[NDArray[np.bool_]] = [graph.widths[variable] == 0 for variable in (first, second)]
        table = np.where(gone[0][:, None] == gone[1][None, :], 0.0, NEVER)
        scope = tuple(sorted((first, second)))
        found[scope] = table if scope == (first, second) else table.T
    return found
