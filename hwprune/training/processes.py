"""The processes of one training: those that torchrun started, or this one alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from hwprune.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that work on one thing, and which of them this one is.

    All methods are collective: every process calls them in the same order. With one process they do nothing.

    Attributes:
        rank: of this process, from 0.
        count: how many there are.
        local: how many of them are on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that measures, writes and speaks."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The first process' value; it must be picklable."""
        if self.count == 1:
            return value
        held = [value if self.first else None]
        distributed.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]

    def from_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the first process, the only one that does it; the others wait.

        While it works there is one process: what it calls sees :func:`processes` of one, and torch.distributed as if it
        were not initialized (metrics of torchmetrics would wait for the others).
        """
        if self.count == 1:
            return work()
        if not self.first:
            return self.broadcast(None)  # type: ignore[return-value]
        group, distributed.GroupMember.WORLD = distributed.GroupMember.WORLD, None
        try:
            with working_as(ALONE):
                value = work()
        finally:
            distributed.GroupMember.WORLD = group
        return self.broadcast(value)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; they must be picklable."""
        found = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(found, value)
        return found

    def check_same(self, what: str, value: object, *, hint: str) -> None:
        """Refuse to go on where processes differ.

        Raises:
            InputError: they do; raised in every process.
        """
        found = self.gather(value)
        odd = [rank for rank, one in enumerate(found) if one != found[0]]
        if odd:
            raise InputError(f"{what} of ranks {odd} differ from those of rank 0", hint=hint)

    def mean(self, value: float) -> float:
        """Average over the processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.count

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its average over the processes, those that have none counting as zero.

        All gradients of one type travel together. A parameter without gradient in every process stays without, so a
        network may have outputs that the loss does not depend on, and branches that come and go.
        """
        if self.count == 1:
            return
        alike: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                alike.setdefault((parameter.device, parameter.dtype), []).append(parameter)
        for group in alike.values():
            _average(group, self.count)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.count > 1:
            own = list(tensors)
            given = self.broadcast([tensor.detach().cpu() for tensor in own] if self.first else [])
            with torch.no_grad():
                for tensor, value in zip(own, given, strict=True):
                    tensor.copy_(value)


ALONE = Processes()
_present = ALONE


def processes() -> Processes:
    """The processes that work together now; one, outside of :func:`hwprune.training.launching.launched`."""
    return _present


@contextmanager
def working_as(present: Processes) -> Iterator[None]:
    """Make these the processes that :func:`processes` gives."""
    global _present
    before, _present = _present, present
    try:
        yield
    finally:
        _present = before


def checksum(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over all bits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _average(parameters: list[nn.Parameter], count: int) -> None:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = grads[0].new_tensor([float(p.grad is not None) for p in parameters])
    joined = torch.cat([*(grad.flatten() for grad in grads), present])
    distributed.all_reduce(joined)
    *averages, found = torch.split(joined, [*(grad.numel() for grad in grads), len(grads)])
    for parameter, average, some in zip(parameters, averages, found.tolist(), strict=True):
        if some:
            average = (average / count).view_as(parameter)
            parameter.grad = average if parameter.grad is None else parameter.grad.copy_(average)
