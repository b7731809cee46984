"""The closed loop: plan, train, export, measure on the target, correct."""

from hwprune.compression.config import CompressConfig as CompressConfig
from hwprune.compression.config import read_config as read_config
from hwprune.compression.folder import RunFolder as RunFolder
from hwprune.compression.pipeline import InMemory as InMemory
from hwprune.compression.pipeline import Run as Run
from hwprune.compression.pipeline import compress as compress
from hwprune.compression.pipeline import resumed_config as resumed_config
from hwprune.compression.progress import Progress as Progress
from hwprune.compression.sweep import Sweep as Sweep

__all__ = [
    "CompressConfig",
    "InMemory",
    "Progress",
    "Run",
    "RunFolder",
    "Sweep",
    "compress",
    "read_config",
    "resumed_config",
]
