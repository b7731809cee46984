"""All solvers, by the names that users give them."""

from __future__ import annotations

from collections.abc import Callable

from .baselines import solve_global, solve_uniform
from .halp import solve_halp
from .joint import solve
from .plan import Plan
from .problem import Problem


def solvers() -> dict[str, Callable[[Problem], Plan]]:
    """Name → solver: the joint optimum, and three baselines."""
    return {"joint": solve, "halp": solve_halp, "uniform": solve_uniform, "global": solve_global}
