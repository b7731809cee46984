"""What to keep: problems, plans and the solvers between them. Arrays only, no torch."""

from .amount import Budget as Budget
from .amount import Metric as Metric
from .amount import parse_budget as parse_budget
from .amount import spell as spell
from .axis import Axis as Axis
from .baselines import solve_global as solve_global
from .baselines import solve_uniform as solve_uniform
from .document import load_problem as load_problem
from .document import read_problem as read_problem
from .document import write_problem as write_problem
from .grouping import kept_channels as kept_channels
from .grouping import rank as rank
from .halp import separable as separable
from .halp import solve_halp as solve_halp
from .joint import Solver as Solver
from .joint import solve as solve
from .knapsack import solve_mckp as solve_mckp
from .methods import solvers as solvers
from .plan import Plan as Plan
from .problem import Choices as Choices
from .problem import Cost as Cost
from .problem import CostAxis as CostAxis
from .problem import Problem as Problem
from .problem import total as total
from .product import Product as Product
from .schedule import geometric as geometric

__all__ = [
    "Axis",
    "Budget",
    "Choices",
    "Cost",
    "CostAxis",
    "Metric",
    "Plan",
    "Problem",
    "Product",
    "Solver",
    "geometric",
    "kept_channels",
    "load_problem",
    "parse_budget",
    "rank",
    "read_problem",
    "separable",
    "solve",
    "solve_global",
    "solve_halp",
    "solve_mckp",
    "solve_uniform",
    "solvers",
    "spell",
    "total",
    "write_problem",
]
