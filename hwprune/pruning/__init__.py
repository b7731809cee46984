"""When to cut: pruners that live inside a training loop, and the prices they go by."""

from hwprune.pruning.pricing import Pricing as Pricing
from hwprune.pruning.pricing import price as price
from hwprune.pruning.pruner import BudgetPruner as BudgetPruner
from hwprune.pruning.pruner import PruneSchedule as PruneSchedule

__all__ = ["BudgetPruner", "Pricing", "PruneSchedule", "price"]
