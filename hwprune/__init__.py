"""hwprune: compress a network to a budget that its exported engine meets, measured on the device.

The names below load their room (and torch) when they are first used; importing hwprune does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwprune.budget import Budget as Budget
    from hwprune.budget import Plan as Plan
    from hwprune.compression import CompressConfig as CompressConfig
    from hwprune.compression import InMemory as InMemory
    from hwprune.compression import Run as Run
    from hwprune.compression import compress as compress
    from hwprune.deploy import Bundle as Bundle
    from hwprune.latency import LatencyTable as LatencyTable
    from hwprune.network import cut as cut
    from hwprune.network import trace as trace
    from hwprune.pruning import BudgetPruner as BudgetPruner
    from hwprune.pruning import PruneSchedule as PruneSchedule
    from hwprune.pruning import price as price
    from hwprune.targets import Target as Target
    from hwprune.verbs import bench as bench
    from hwprune.verbs import export as export
    from hwprune.verbs import inspect as inspect
    from hwprune.verbs import load as load
    from hwprune.verbs import predict as predict
    from hwprune.verbs import profile as profile

__version__ = "0.1.0"

_HOMES = {
    "Budget": "budget",
    "Bundle": "deploy",
    "CompressConfig": "compression",
    "BudgetPruner": "pruning",
    "PruneSchedule": "pruning",
    "InMemory": "compression",
    "LatencyTable": "latency",
    "Plan": "budget",
    "Run": "compression",
    "Target": "targets",
    "bench": "verbs",
    "compress": "compression",
    "cut": "network",
    "export": "verbs",
    "inspect": "verbs",
    "load": "verbs",
    "predict": "verbs",
    "price": "pruning",
    "profile": "verbs",
    "trace": "network",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hwprune' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hwprune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
