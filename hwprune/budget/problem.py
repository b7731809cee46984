"""The Problem: which widths each group may have, what they are worth and what they cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwprune import strict_json as strict
from hwprune.errors import InputError

from .axis import Axis

SCHEMA_VERSION = 1
_Made = TypeVar("_Made")
HINT = "give an object with schema_version, groups, costs and budgets"


@dataclass(frozen=True)
class Choices:
    """The widths a group may have.

    Attributes:
        widths: allowed widths, in channels, strictly ascending, at least 1.
        saliency: total saliency kept at each width.

    Raises:
        InputError: on construction, if these do not hold.
    """

    widths: tuple[int, ...]
    saliency: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.saliency):
            raise InputError(
                f"{len(self.widths)} widths but {len(self.saliency)} saliencies", hint="give one saliency per width"
            )
        if not self.widths or self.widths[0] < 1 or any(a >= b for a, b in pairwise(self.widths)):
            raise InputError(f"widths {list(self.widths)} are not ascending from at least 1", hint="sort them")
        if not all(math.isfinite(value) for value in self.saliency):
            raise InputError("a saliency is NaN or infinite", hint="give finite saliencies")


@dataclass(frozen=True)
class CostAxis:
    """One axis of a cost table.

    Attributes:
        axis: the size of the dimension as a function of group widths.
        sizes: the sizes the table covers, in channels, strictly ascending: position i is index i.

    Raises:
        InputError: on construction, if ``sizes`` is empty or not ascending.
    """

    axis: Axis
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or any(a >= b for a, b in pairwise(self.sizes)):
            raise InputError(f"sizes {list(self.sizes)} of a cost are not ascending", hint="sort them")

    def index(self, widths: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
        """Position of the dimension's size in ``sizes``, for every choice of widths.

        Args:
            widths: group name → width, or an array of widths with one entry per candidate.

        Raises:
            InputError: a size that the table does not cover.
        """
        size = np.asarray(self.axis.fixed, dtype=np.int64)
        for group, multiplier in self.axis.terms:
            size = size + multiplier * np.asarray(widths[group], dtype=np.int64)
        sizes = np.asarray(self.sizes, dtype=np.int64)
        index = np.minimum(np.searchsorted(sizes, size), sizes.size - 1)
        missing = sizes[index] != size
        if np.any(missing):
            raise InputError(
                f"a cost table has no entry for {int(np.atleast_1d(size)[np.atleast_1d(missing)][0])} channels",
                hint=f"it covers {', '.join(map(str, self.sizes))}",
            )
        return np.asarray(index, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Cost:
    """What one layer costs at every combination of sizes.

    Attributes:
        budget: the budget it counts against (``latency_ms``, ``size_bytes``, ``macs``).
        axes: one per dimension of ``table``; the last is the layer's output side.
        table: costs in the unit of ``budget``, shape (len(axis.sizes) for each axis).
        name: of the layer, for messages.
        step: when it is incurred; "" for always. See :func:`total`.

    Raises:
        InputError: on construction, if the table does not fit the axes or is not finite.
    """

    budget: str
    axes: tuple[CostAxis, ...]
    table: NDArray[np.float64]
    name: str = ""
    step: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", np.asarray(self.table, dtype=np.float64))
        shape = tuple(len(axis.sizes) for axis in self.axes)
        if self.table.shape != shape:
            raise InputError(
                f"cost {self.name!r} has a table of shape {self.table.shape}, its axes ask for {shape}",
                hint="nest the table's lists in the order of the groups, one entry per size",
            )
        if not np.isfinite(self.table).all():
            raise InputError(f"cost {self.name!r} contains NaN or infinity", hint="give finite costs")

    def at(self, widths: Mapping[str, int]) -> float:
        """Cost at these widths (group name → channels kept)."""
        return float(self.at_each(widths))

    def at_each(self, widths: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Costs of many candidates at once.

        Args:
            widths: group name → array of widths, all of one shape (candidates,).

        Returns:
            Shape (candidates,), or a scalar array where no axis depends on a group.
        """
        return np.asarray(self.table[tuple(axis.index(widths) for axis in self.axes)])


def total(costs: Iterable[Cost], widths: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """What the costs of one budget come to: their sum; of those that name a step, the greatest sum over one step.

    Memory is such a budget: weights are held always, an activation only while something still reads it.

    Args:
        costs: all of one budget.
        widths: group name → width, or an array of widths with one entry per candidate.

    Returns:
        Shape (candidates,), or a scalar array.
    """
    sums = _by_step(costs, widths)
    always = sums.pop("", np.zeros(()))
    return np.asarray(always + np.max(np.broadcast_arrays(*sums.values()), axis=0) if sums else always)


def worst_step(costs: Iterable[Cost], widths: Mapping[str, int]) -> str:
    """The step whose costs sum to most at these widths; "" if none is named."""
    sums = _by_step(costs, widths)
    return max((step for step in sums if step), key=lambda step: float(sums[step]), default="")


def _by_step(costs: Iterable[Cost], widths: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    sums: dict[str, NDArray[np.float64]] = {}
    for cost in costs:
        sums[cost.step] = sums.get(cost.step, np.zeros(())) + cost.at_each(widths)
    return sums


@dataclass(frozen=True, eq=False)
class Problem:
    """Choose one width per group: the most saliency within every budget.

    Attributes:
        groups: group name → its choices.
        costs: one per layer and budget.
        budgets: budget name → limit on the :func:`total` of its costs.

    Raises:
        InputError: on construction: no group, a cost of an unknown group, a limit that is not positive.
    """

    groups: dict[str, Choices]
    costs: tuple[Cost, ...]
    budgets: dict[str, float]

    def __post_init__(self) -> None:
        if not self.groups:
            raise InputError("the problem has no groups", hint="give at least one group")
        for cost in self.costs:
            for group in (name for axis in cost.axes for name in axis.axis.groups):
                if group not in self.groups:
                    raise InputError(f"cost {cost.name!r} names the unknown group {group!r}", hint=_known(self.groups))
        for name, limit in self.budgets.items():
            if not (math.isfinite(limit) and limit > 0):
                raise InputError(f"budget {name} is {limit}", hint="give a positive number")

    @property
    def smallest(self) -> dict[str, int]:
        """The least width of every group."""
        return {name: choices.widths[0] for name, choices in self.groups.items()}

    @property
    def widest(self) -> dict[str, int]:
        """The greatest width of every group."""
        return {name: choices.widths[-1] for name, choices in self.groups.items()}

    def up_to(self, at: Mapping[str, int]) -> Problem:
        """The same problem without widths above ``at`` (group name → greatest width).

        Raises:
            InputError: no width of some group is left.
        """
        groups = {}
        for name, choices in self.groups.items():
            count = sum(width <= at[name] for width in choices.widths)
            if not count:
                raise InputError(
                    f"group {name!r} has no width of {at[name]} or less", hint=f"its least is {choices.widths[0]}"
                )
            groups[name] = Choices(choices.widths[:count], choices.saliency[:count])
        return Problem(groups=groups, costs=self.costs, budgets=self.budgets)

    def objective(self, widths: Mapping[str, int]) -> float:
        """Total saliency kept at these widths."""
        return sum(c.saliency[c.widths.index(widths[name])] for name, c in self.groups.items())

    def evaluate(self, widths: Mapping[str, int]) -> dict[str, float]:
        """The total of the costs at these widths: budget name → value, in the budget's own unit."""
        names = dict.fromkeys((*self.budgets, *(cost.budget for cost in self.costs)))
        return {name: float(total(self.of(name), widths)) for name in names}

    def evaluate_each(self, budget: str, widths: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """The total of one budget's costs for many candidates at once.

        Args:
            budget: its name.
            widths: group name → array of widths, shape (candidates,).

        Returns:
            Shape (candidates,).
        """
        candidates = np.shape(next(iter(widths.values())))
        return np.zeros(candidates) + total(self.of(budget), widths)

    def of(self, budget: str) -> tuple[Cost, ...]:
        """The costs that count against one budget."""
        return tuple(cost for cost in self.costs if cost.budget == budget)

    def least_widths(self, budget: str) -> dict[str, int]:
        """The widths of least cost.

        Starts from the smallest widths and improves one group at a time until nothing falls any more: exact
        where no cost falls as a width grows; a local minimum where measured tables are not monotonic.
        """
        widths = self.smallest
        lowest, improved = self.evaluate(widths).get(budget, 0.0), True
        while improved:
            improved = False
            for name, choices in self.groups.items():
                candidates = {other: np.full(len(choices.widths), width) for other, width in widths.items()}
                candidates[name] = np.asarray(choices.widths)
                values = self.evaluate_each(budget, candidates)
                if values.min() < lowest:
                    lowest, improved = float(values.min()), True
                    widths[name] = choices.widths[int(values.argmin())]
        return widths

    def least(self) -> dict[str, float]:
        """Budget name → the least its costs can sum to, each budget for itself (see :meth:`least_widths`)."""
        return {budget: self.evaluate(self.least_widths(budget))[budget] for budget in self.budgets}

    def to_json(self) -> str:
        """The problem as a JSON document."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "groups": {n: {"widths": list(c.widths), "saliency": list(c.saliency)} for n, c in self.groups.items()},
            "costs": [_cost_document(cost) for cost in self.costs],
            "budgets": self.budgets,
        }
        return json.dumps(document, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, document: str) -> Problem:
        """Read a problem strictly.

        A cost has either ``groups`` (its table is indexed by the width indices of these groups, the output
        side last) or ``axes`` (each with ``fixed``, ``terms`` and ``sizes``, see :class:`CostAxis`).

        Raises:
            InputError: anything that is not exactly a problem, with the place.
        """
        top = strict.fields(
            strict.parse_json(document, what="problem", hint=HINT),
            "the problem",
            required=("schema_version", "groups", "costs", "budgets"),
        )
        if strict.integer(top["schema_version"], "schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"the problem has schema_version {top['schema_version']}; this hwprune reads {SCHEMA_VERSION}",
                hint="write it in the form this version reads",
            )
        groups = {n: _read_choices(c, f"groups.{n}") for n, c in strict.mapping(top["groups"], "groups").items()}
        costs = tuple(_read_cost(c, f"costs[{i}]", groups) for i, c in enumerate(strict.items(top["costs"], "costs")))
        budgets = {n: strict.number(v, f"budgets.{n}") for n, v in strict.mapping(top["budgets"], "budgets").items()}
        return cls(groups=groups, costs=costs, budgets=budgets)


def _known(groups: Mapping[str, Any]) -> str:
    return f"known groups: {', '.join(groups)}"


def _cost_document(cost: Cost) -> dict[str, Any]:
    axes = [
        {"fixed": a.axis.fixed, "terms": [list(term) for term in a.axis.terms], "sizes": list(a.sizes)}
        for a in cost.axes
    ]
    step = {"step": cost.step} if cost.step else {}
    return {"budget": cost.budget, "name": cost.name, **step, "axes": axes, "table": cost.table.tolist()}


def _read_choices(value: Any, where: str) -> Choices:
    document = strict.fields(value, where, required=("widths", "saliency"))
    widths = strict.each(document["widths"], f"{where}.widths", strict.integer)
    saliency = strict.each(document["saliency"], f"{where}.saliency", strict.number)
    return _placed(where, lambda: Choices(widths, saliency))


def _read_cost(value: Any, where: str, groups: Mapping[str, Choices]) -> Cost:
    document = strict.fields(value, where, required=("budget", "table"), optional=("groups", "axes", "name", "step"))
    if ("groups" in document) == ("axes" in document):
        raise InputError(f"{where} needs either 'groups' or 'axes'", hint="'groups' is the simple form")
    if "groups" in document:
        names = strict.each(document["groups"], f"{where}.groups", strict.text)
        for name in names:
            if name not in groups:
                raise InputError(f"{where}.groups names the unknown group {name!r}", hint=_known(groups))
        axes = tuple(CostAxis(Axis(terms=((name, 1),)), groups[name].widths) for name in names)
    else:
        axes = strict.each(document["axes"], f"{where}.axes", _read_axis)
    budget = strict.text(document["budget"], f"{where}.budget")
    name = strict.text(document.get("name", where), f"{where}.name")
    step = strict.text(document.get("step", ""), f"{where}.step")
    table = _read_table(document["table"], f"{where}.table")
    return _placed(where, lambda: Cost(budget=budget, axes=axes, table=table, name=name, step=step))


def _read_axis(value: Any, where: str) -> CostAxis:
    document = strict.fields(value, where, required=("terms", "sizes"), optional=("fixed",))
    terms = strict.each(document["terms"], f"{where}.terms", _read_term)
    sizes = strict.each(document["sizes"], f"{where}.sizes", strict.integer)
    fixed = strict.integer(document.get("fixed", 0), f"{where}.fixed")
    return _placed(where, lambda: CostAxis(Axis(fixed=fixed, terms=terms), sizes))


def _read_term(value: Any, where: str) -> tuple[str, int]:
    pair = strict.items(value, where)
    if len(pair) != 2:
        raise InputError(f"{where} has {len(pair)} entries, not 2", hint='a term is ["group", multiplier]')
    return strict.text(pair[0], where), strict.integer(pair[1], where)


def _read_table(value: Any, where: str) -> NDArray[np.float64]:
    """Nested lists of numbers, all of one length at each depth."""

    def numbers(item: Any, place: str) -> Any:
        return strict.each(item, place, numbers) if isinstance(item, list) else strict.number(item, place)

    try:
        return np.asarray(numbers(value, where), dtype=np.float64)
    except ValueError:
        raise InputError(f"{where} has rows of different lengths", hint="give one entry per size") from None


def _placed(where: str, make: Callable[[], _Made]) -> _Made:
    """Run ``make``, naming the place in its error."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{where}: {error.message}", hint=error.hint) from None
