"""What others do: the same share of every group, or one threshold for all channels. To compare with, not to use."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hwprune.errors import InfeasibleError

from .plan import Plan
from .problem import Choices, Problem


def solve_uniform(problem: Problem) -> Plan:
    """The same share of every group's channels, as large as the budgets allow.

    Raises:
        InfeasibleError: even the least widths are over a budget.
    """
    dense = problem.widest
    shares = sorted({width / dense[name] for name, choices in problem.groups.items() for width in choices.widths})

    def at(place: int) -> dict[str, int]:
        return {
            name: max((w for w in choices.widths if w <= shares[place] * dense[name]), default=choices.widths[0])
            for name, choices in problem.groups.items()
        }

    return _largest(problem, at, len(shares), "uniform")


def solve_global(problem: Problem) -> Plan:
    """Every channel above one threshold of saliency, which is as low as the budgets allow.

    What Torch-Pruning calls global pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023), with
    widths on the steps that the problem offers.

    Raises:
        InfeasibleError: even the least widths are over a budget.
    """
    worth = {name: _per_channel(choices) for name, choices in problem.groups.items()}
    thresholds = sorted({value for values in worth.values() for value in values}, reverse=True)

    def at(place: int) -> dict[str, int]:
        least = thresholds[place]
        return {
            name: choices.widths[max((i for i, value in enumerate(worth[name]) if value >= least), default=0)]
            for name, choices in problem.groups.items()
        }

    return _largest(problem, at, len(thresholds), "global")


def _per_channel(choices: Choices) -> list[float]:
    """Saliency per channel of what each width has more than the one below."""
    counts = np.diff(choices.widths, prepend=0)
    return list((np.diff(choices.saliency, prepend=0.0) / counts).tolist())


def _largest(problem: Problem, at: Callable[[int], dict[str, int]], count: int, solver: str) -> Plan:
    """The last of several ever larger widths that is inside the budgets."""
    began = time.perf_counter()
    inside = [place for place in range(count) if problem.holds(at(place))]
    if not inside:
        least = problem.least()
        raise InfeasibleError(
            f"no widths of method {solver} are inside the budgets: its least come to {problem.evaluate(at(0))}",
            least=least,
            hint="give larger budgets, or use the joint solver",
        )
    widths = at(inside[-1])
    return Plan(
        widths=widths,
        objective=problem.objective(widths),
        used=problem.evaluate(widths),
        budgets=dict(problem.budgets),
        solver=solver,
        solve_s=time.perf_counter() - began,
    )
