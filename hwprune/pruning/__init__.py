"""When to cut: pruners that live inside a training loop, and the prices they go by."""

from hwprune.pruning.halp import HalpPruner as HalpPruner
from hwprune.pruning.halp import HalpSchedule as HalpSchedule
from hwprune.pruning.pricing import Pricing as Pricing
from hwprune.pruning.pricing import price as price

__all__ = ["HalpPruner", "HalpSchedule", "Pricing", "price"]
