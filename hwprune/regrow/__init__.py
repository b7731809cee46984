"""What is pruned in training and grown back: single weights, N:M patterns, and whole channels inside a budget."""

from ._base import Context as Context
from ._base import Periodic as Periodic
from ._base import Rule as Rule
from .channels import ExploreSchedule as ExploreSchedule
from .channels import ExploringPruner as ExploringPruner
from .distribution import layer_counts as layer_counts
from .distribution import layer_densities as layer_densities
from .gmp import GMP as GMP
from .granet import GraNet as GraNet
from .history import MaskUpdate as MaskUpdate
from .iee import IEE as IEE
from .masks import SparseMasks as SparseMasks
from .nm import NM as NM
from .pruner import SparsePruner as SparsePruner
from .rigl import RigL as RigL
from .set import SET as SET
from .srigl import SRigL as SRigL
from .storage import StoredSize as StoredSize
from .storage import stored_size as stored_size

__all__ = [  # noqa: RUF022 - acronyms among the others, as sorted() puts them
    "Context",
    "ExploreSchedule",
    "ExploringPruner",
    "GMP",
    "GraNet",
    "IEE",
    "MaskUpdate",
    "NM",
    "Periodic",
    "RigL",
    "Rule",
    "SET",
    "SRigL",
    "SparseMasks",
    "SparsePruner",
    "StoredSize",
    "layer_counts",
    "layer_densities",
    "rules",
    "stored_size",
]


def rules() -> dict[str, type[Rule]]:
    """Every rule by its name."""
    return {rule.name: rule for rule in (GMP, GraNet, RigL, SET, SRigL, IEE, NM)}
