"""The Problem: which widths each group may have, what they are worth and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwprune.errors import InputError

from .axis import Axis


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

    def index(self, widths: Mapping[str, ArrayLike], *, needed: ArrayLike = True) -> NDArray[np.int64]:
        """Position of the dimension's size in ``sizes``, for every choice of widths.

        Args:
            widths: group name → width, or an array of widths with one entry per candidate.
            needed: which candidates matter; the others get some position.

        Raises:
            InputError: a size that the table does not cover.
        """
        size = np.asarray(self.axis.fixed, dtype=np.int64)
        for names, multiplier in self.axis.addends:
            size = size + multiplier * math.prod(np.asarray(widths[name], dtype=np.int64) for name in names)
        sizes = np.asarray(self.sizes, dtype=np.int64)
        index = np.minimum(np.searchsorted(sizes, size), sizes.size - 1)
        missing = (sizes[index] != size) & needed
        if np.any(missing):
            lacking = np.broadcast_to(size, np.shape(missing))[missing]
            raise InputError(
                f"a cost table has no entry for {int(lacking.flat[0])} channels",
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
        present: a group whose width of 0 (its block is removed) means that nothing is incurred; "" for none.

    Raises:
        InputError: on construction, if the table does not fit the axes or is not finite.
    """

    budget: str
    axes: tuple[CostAxis, ...]
    table: NDArray[np.float64]
    name: str = ""
    step: str = ""
    present: str = ""

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
        if not self.present:
            return np.asarray(self.table[tuple(axis.index(widths) for axis in self.axes)])
        there = np.asarray(widths[self.present]) > 0
        found = self.table[tuple(axis.index(widths, needed=there) for axis in self.axes)]
        return np.where(there, found, 0.0)


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
        blocks: name → groups that may vanish, all of them together: their widths are then 0, and keep no saliency.

    Raises:
        InputError: on construction: no group, a cost or block of an unknown group, a group in two blocks, a limit
            that is not positive.
    """

    groups: dict[str, Choices]
    costs: tuple[Cost, ...]
    budgets: dict[str, float]
    blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.groups:
            raise InputError("the problem has no groups", hint="give at least one group")
        for cost in self.costs:
            for group in (*(name for axis in cost.axes for name in axis.axis.groups), cost.present or None):
                if group is not None and group not in self.groups:
                    raise InputError(f"cost {cost.name!r} names the unknown group {group!r}", hint=known(self.groups))
        self._check_blocks()
        for name, limit in self.budgets.items():
            if not (math.isfinite(limit) and limit > 0):
                raise InputError(f"budget {name} is {limit}", hint="give a positive number")

    def _check_blocks(self) -> None:
        seen: set[str] = set()
        for name, groups in self.blocks.items():
            if not groups:
                raise InputError(f"block {name!r} has no groups", hint="name the groups that vanish with it")
            for group in groups:
                if group not in self.groups:
                    raise InputError(f"block {name!r} names the unknown group {group!r}", hint=known(self.groups))
                if group in seen:
                    raise InputError(
                        f"group {group!r} is named twice in blocks", hint="a group is in one block at most"
                    )
                seen.add(group)

    @property
    def removable(self) -> frozenset[str]:
        """Groups whose width may be 0."""
        return frozenset(chain.from_iterable(self.blocks.values()))

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
        return self.between({}, at)

    def between(self, lower: Mapping[str, int], upper: Mapping[str, int]) -> Problem:
        """The same problem without widths outside bounds.

        Args:
            lower: group name → least width, where it has one; a group with one cannot be removed with its block.
            upper: group name → greatest width, where it has one.

        Raises:
            InputError: no width of some group is left.
        """
        groups = {}
        for name, choices in self.groups.items():
            low, high = lower.get(name, 1), upper.get(name, choices.widths[-1])
            inside = [index for index, width in enumerate(choices.widths) if low <= width <= high]
            if not inside:
                raise InputError(
                    f"group {name!r} has no width from {low} to {high}",
                    hint=f"its widths are {', '.join(map(str, choices.widths))}",
                )
            part = slice(inside[0], inside[-1] + 1)
            groups[name] = Choices(choices.widths[part], choices.saliency[part])
        blocks = {name: members for name, members in self.blocks.items() if not set(members) & set(lower)}
        return replace(self, groups=groups, blocks=blocks)

    def objective(self, widths: Mapping[str, int]) -> float:
        """Total saliency kept at these widths."""
        there = ((choices, widths[name]) for name, choices in self.groups.items() if widths[name])
        return sum(choices.saliency[choices.widths.index(width)] for choices, width in there)

    def evaluate(self, widths: Mapping[str, int]) -> dict[str, float]:
        """The total of the costs at these widths: budget name → value, in the budget's own unit."""
        names = dict.fromkeys((*self.budgets, *(cost.budget for cost in self.costs)))
        return {name: float(total(self.of(name), widths)) for name in names}

    def holds(self, widths: Mapping[str, int]) -> bool:
        """Whether every budget is inside its limit at these widths."""
        used = self.evaluate(widths)
        return all(used[name] <= limit for name, limit in self.budgets.items())

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

        Starts from the smallest widths and improves one group or block at a time until nothing falls any more: exact
        where no cost falls as a width grows; a local minimum where measured tables are not monotonic.
        """
        widths = self.smallest
        lowest, improved = self.evaluate(widths).get(budget, 0.0), True
        while improved:
            improved = False
            for members in self.blocks.values():
                without = {**widths, **dict.fromkeys(members, 0)}
                value = self.evaluate(without).get(budget, 0.0)
                if value < lowest:
                    lowest, improved, widths = value, True, without
            for name, choices in self.groups.items():
                if not widths[name]:
                    continue
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


def known(names: Iterable[str]) -> str:
    """A hint: the groups there are."""
    return f"known groups: {', '.join(names)}"
