"""What every runtime can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwprune import device_runner
from hwprune.targets.target import Target


class Runtime(ABC):
    """Something that executes exported engines on a device.

    Attributes:
        name: as in ``Target.runtime``.
    """

    name: str

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, or None if it can."""

    @abstractmethod
    def open(self, model: bytes | Path, target: Target) -> device_runner.OnnxRuntimeEngine:
        """Open an engine to run under the target's conditions.

        Raises:
            InputError: the runtime is not installed here, or does not offer the target's precision.
            ModelError: the model cannot be opened.
        """

    @abstractmethod
    def fuses(self, op: str, into: str, *, rank: int = 4, chain: Sequence[str] = ()) -> bool:
        """Whether operator ``op`` runs inside the kernel of the layer that produces its input.

        In doubt the answer is no: an operator counted apart costs a little too much, one taken for fused costs nothing.

        Args:
            op: ATen operator name without namespace and overload (``relu``, ``add``, ``batch_norm``). ``add`` means
                two activations of equal shape, not a constant and not a broadcast.
            into: ``Layer.op`` of that layer (``conv``, ``linear``, …).
            rank: dimensions of that layer's output, batch included (4 for a 2-d convolution).
            chain: operators that run inside that kernel already, in order.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """The device that this runtime would run on; see ``device_runner.fingerprint``."""
