"""Beginning and ending together with the other processes that torchrun started."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from hwprune.errors import ElsewhereError, HwpruneError, InputError
from hwprune.training.processes import Processes, processes, working_as

PATIENCE = timedelta(days=30)  # while the first process measures, the others wait; a lost one is noticed at once
GRACE_S = 10.0  # for the others to end their work, before the process that failed ends
HEAD_START_S = 1.0  # of the process that failed, which torchrun then names as the cause


@contextmanager
def launched() -> Iterator[Processes]:
    """Work together with the other processes that torchrun started; outside torchrun alone.

    An error in any process ends all of them. It is raised where it happened; in the others, instead of what they were
    waiting for, as an :class:`~hwprune.errors.ElsewhereError`. May be nested; after an inner one has let an error
    through, every process is on its own, with the rank it had.

    Raises:
        InputError: torch.distributed is in use already, or the machines run different numbers of processes.
        ElsewhereError: another process failed.
    """
    global _meeting
    if _meeting is not None:
        with _meeting.told():
            yield processes()
        return
    started = distributed.is_available() and distributed.is_torchelastic_launched()
    if not started or int(os.environ["WORLD_SIZE"]) == 1:
        yield processes()
        return
    _meeting = _Meeting()
    try:
        with _meeting.told():
            yield _meeting.begin()
            processes().gather(None)  # nobody leaves before all are done
    finally:
        _meeting.leave()
        _meeting = None


class _Meeting:
    """What the processes of torchrun have in common: a group, and a store in which the first error is told."""

    def __init__(self) -> None:
        self.store, self.rank, self.count = next(iter(rendezvous("env://")))
        self.cause, self.group = -1, ExitStack()

    def begin(self) -> Processes:
        """Meet the others."""
        if distributed.is_initialized():
            raise InputError(
                "torch.distributed is initialized already",
                hint="destroy its process group first; hwprune makes one of its own",
            )
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        distributed.init_process_group(
            backend, store=self.store, rank=self.rank, world_size=self.count, timeout=PATIENCE
        )
        self.group.callback(distributed.destroy_process_group)
        found = Processes(self.rank, self.count, int(os.environ["LOCAL_WORLD_SIZE"]))
        self.group.enter_context(working_as(found))
        found.check_same("numbers of processes per machine", found.local, hint="start as many on every machine")
        return found

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the others of an error in the block, or find out that it is one of theirs."""
        try:
            yield
        except BaseException as error:
            try:
                first = self._first(error)
            except KeyboardInterrupt as late:  # a Ctrl-C is heard when waiting for the others has come to an end
                first = self._first(late)
            if first is error:
                raise
            raise first from error

    def _first(self, error: BaseException) -> BaseException:
        """The error that all processes end with; leaves the group, which those who wait notice at once."""
        if isinstance(error, ElsewhereError):
            return error
        mine = _lost(error) or error
        told = packed = _packed(self.rank, mine)
        with suppress(RuntimeError):  # the store may be gone with the process that held it
            told = self.store.compare_set("error", "", packed).decode()
        self.group.close()
        self.group.enter_context(working_as(Processes(self.rank)))
        self.cause, theirs = pickle.loads(bytes.fromhex(told))
        return mine if self.cause == self.rank else ElsewhereError(self.cause, theirs)

    def leave(self) -> None:
        """Leave the group; after an error when the others have, for torchrun ends them all with the first that ends."""
        self.group.close()
        until = time.monotonic() + GRACE_S
        with suppress(RuntimeError):
            waiting = self.cause >= 0 and self.store.add("ended", 1) < self.count
            while waiting and time.monotonic() < until:
                time.sleep(0.02)
                waiting = self.store.add("ended", 0) < self.count
        if self.cause not in (-1, self.rank):
            time.sleep(HEAD_START_S)


_meeting: _Meeting | None = None


def _lost(error: BaseException) -> HwpruneError | None:
    """What a broken connection means; None for any other error."""
    if not (isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))):
        return None
    return HwpruneError(
        f"another process of the run is gone: {str(error).partition('. ')[0]}",
        hint="torchrun says which one and how it ended; --resume goes on",
    )


def _packed(rank: int, error: BaseException) -> str:
    try:
        packed = pickle.dumps((rank, error))
        pickle.loads(packed)
    except Exception:  # an error of somebody else's code may hold anything
        packed = pickle.dumps((rank, RuntimeError(f"{type(error).__name__}: {error}")))
    return packed.hex()
