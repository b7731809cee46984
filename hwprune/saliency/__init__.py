"""What a channel is worth: one file per criterion, and the running mean over minibatches."""

from ._base import Criterion as Criterion
from .accumulate import Accumulator as Accumulator
from .bn_scale import BatchNormScale as BatchNormScale
from .magnitude import MagnitudeL1 as MagnitudeL1
from .magnitude import MagnitudeL2 as MagnitudeL2
from .taylor_bn import TaylorBatchNorm as TaylorBatchNorm
from .taylor_weight import TaylorWeight as TaylorWeight

__all__ = [
    "Accumulator",
    "BatchNormScale",
    "Criterion",
    "MagnitudeL1",
    "MagnitudeL2",
    "TaylorBatchNorm",
    "TaylorWeight",
    "criteria",
]


def criteria() -> dict[str, Criterion]:
    """Every criterion by its name."""
    return {
        "taylor-bn": TaylorBatchNorm(),
        "taylor-weight": TaylorWeight(),
        "magnitude-l1": MagnitudeL1(),
        "magnitude-l2": MagnitudeL2(),
        "bn-scale": BatchNormScale(),
    }
