"""What is pruned in training and grown back: single weights, N:M patterns, and whole channels inside a budget."""

from ._base import Context as Context
from ._base import Periodic as Periodic
from ._base import Rule as Rule
from .bidirectional import BidirectionalPruner as BidirectionalPruner
from .bidirectional import BidirectionalSchedule as BidirectionalSchedule
from .channels import ExploreSchedule as ExploreSchedule
from .channels import ExploringPruner as ExploringPruner
from .dense_reference import DenseReference as DenseReference
from .distribution import layer_counts as layer_counts
from .distribution import layer_densities as layer_densities
from .gmp import GMP as GMP
from .granet import GraNet as GraNet
from .history import MaskUpdate as MaskUpdate
from .hyperspherical import CosineClassifier as CosineClassifier
from .hyperspherical import hyperspherical as hyperspherical
from .hyperspherical import plain as plain
from .iee import IEE as IEE
from .masks import SparseMasks as SparseMasks
from .nm import NM as NM
from .pruner import SparsePruner as SparsePruner
from .rank_one import sparse_plus_rank_one as sparse_plus_rank_one
from .recovery import Recovery as Recovery
from .recovery import prune_and_recover as prune_and_recover
from .restoring import DenseChannels as DenseChannels
from .restoring import RestoreSchedule as RestoreSchedule
from .restoring import RestoringPruner as RestoringPruner
from .rigl import RigL as RigL
from .separation import SeparationPenalty as SeparationPenalty
from .set import SET as SET
from .srigl import SRigL as SRigL
from .storage import StoredSize as StoredSize
from .storage import stored_size as stored_size

__all__ = [  # noqa: RUF022 - acronyms among the others, as sorted() puts them
    "BidirectionalPruner",
    "BidirectionalSchedule",
    "Context",
    "CosineClassifier",
    "DenseChannels",
    "DenseReference",
    "ExploreSchedule",
    "ExploringPruner",
    "GMP",
    "GraNet",
    "IEE",
    "MaskUpdate",
    "NM",
    "Periodic",
    "Recovery",
    "RestoreSchedule",
    "RestoringPruner",
    "RigL",
    "Rule",
    "SET",
    "SRigL",
    "SeparationPenalty",
    "SparseMasks",
    "SparsePruner",
    "StoredSize",
    "hyperspherical",
    "layer_counts",
    "layer_densities",
    "plain",
    "prune_and_recover",
    "rules",
    "sparse_plus_rank_one",
    "stored_size",
]


def rules() -> dict[str, type[Rule]]:
    """Every rule by its name."""
    return {rule.name: rule for rule in (GMP, GraNet, RigL, SET, SRigL, IEE, NM)}
