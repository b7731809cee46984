"""Engines: one file per runtime that opens an exported model and runs it, here and on devices.

On a device it stands beside ``device_runner.py``. Each file needs Python 3.8, numpy and its runtime, all but the
standard library imported late. It has a class ``Engine`` and the functions and constants of :class:`EngineModule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Engine(Protocol):
    """An opened model.

    Attributes:
        inputs: for each input ``{"name", "shape", "dtype"}``; a dynamic dimension is None, dtypes are numpy's names.
        outputs: the same for each output.
        cpu_time: with one thread all the work happens on the calling thread, so that its CPU time is evidence.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    cpu_time: bool

    def run(self, feeds: Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""

    def bind(self, feeds: Mapping[str, NDArray[Any]], /) -> Callable[[], Any]:
        """The call to time: inputs in place, as a deployed application would have them.

        One with an attribute ``clock`` returns its own time in nanoseconds, by that clock.
        """

    def kernels(self) -> list[dict[str, Any]]:
        """What every kernel took in every call so far, in the order of execution; it ends the recording.

        Returns:
            for each kernel ``covers`` (names of the given model's nodes that run in it; a layout change belongs to the
            node whose value it converts; empty where nothing tells), ``op`` (the runtime's name for it), ``runs_ms``
            (one time per call, in milliseconds, as many for all kernels).

        Raises:
            NotInstrumented: the engine was opened without.
        """

    def close(self) -> None:
        """Give back files and memory; the engine is not used after that."""


class EngineModule(Protocol):
    """What an engine file has.

    Attributes:
        Engine: called with ``(model, *, threads, precision, device, instrumented)``; raises BadInput for a model that
            it cannot open, NotInstrumented when it cannot tell what single kernels take.
        KERNELS: whether it ever can.
    """

    Engine: Callable[..., Engine]
    KERNELS: bool

    def available(self, device: str = "cpu") -> str | None:
        """Why it cannot run on this device, with what to install; None if it can."""

    def version(self) -> str:
        """Version of the runtime."""
