"""What is asked of a device, and how it is reached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

NULL, ANCHOR, INSTRUMENTED = "null", "anchor", "+kernels"  # names in replies


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Models to be open at once on a device, and timed against each other.

    Attributes:
        id: what the reply is known by.
        models: contents by name, in the runtime's format.
        instrumented: names of those to open a second time, with a clock on every kernel.
        rounds: rounds in which each runs one burst.
        burst: samples in a row, the first one untimed.
        attempts: how often to start again when the device was too busy.
        max_seconds: rounds and bursts are cut short to end an attempt by then.
        min_clean: the fraction of undisturbed samples that each must reach.
        seed: of inputs and of the order within rounds.
    """

    id: str
    models: Mapping[str, bytes]
    instrumented: tuple[str, ...] = ()
    rounds: int = 9
    burst: int = 4
    attempts: int = 6
    max_seconds: float = 8.0
    min_clean: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.models:
            if name in (NULL, ANCHOR) or name.endswith(INSTRUMENTED):
                raise ValueError(f"{name!r} is a name that replies use for something else")
        if not set(self.instrumented) <= set(self.models):
            raise ValueError(f"instrumented are {self.instrumented}, models {list(self.models)}")


class Connection(ABC):
    """A way to a device. Every visit is joined by two models that it is given once: an empty one and an anchor."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """The device; see ``device_runner.fingerprint``.

        Raises:
            InputError: it cannot be reached, or lacks the runtime.
        """

    @abstractmethod
    def run(self, visits: Iterable[Visit]) -> Iterator[dict[str, Any]]:
        """Make visits; visits are taken from the iterable as there is room for their models.

        Yields:
            for each visit, in order: ``id``; ``candidates``, the statistics of ``device_runner.measure`` by name of the
            model, of ``null`` and ``anchor``, and of ``<name>+kernels`` for the instrumented opening; ``kernels``, by
            name of the model in order of execution ``{"covers", "op", "p50_ms", "iqr_ms", "repeats"}``;
            ``contention``.

        Raises:
            InputError: the device cannot be reached, lacks something, or cannot time kernels.
            MeasurementError: it is too busy.
            ModelError: it cannot open a model.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Leave nothing behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
