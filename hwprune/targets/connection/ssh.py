"""A device reached over OpenSSH: models go there, the worker runs there, its replies come back."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

from hwprune import device_runner
from hwprune.errors import HwpruneError, InputError, MeasurementError
from hwprune.targets.connection._base import Connection, Visit
from hwprune.targets.connection.channel import Channel, ConnectionLost
from hwprune.targets.connection.job import Request, in_chunks, job_document, record, request
from hwprune.targets.connection.replies import HINT, printable, read_fingerprint, read_reply
from hwprune.targets.connection.session import ANSWER_S, Session, ssh_words
from hwprune.targets.device_files import device_files
from hwprune.targets.known import runtime_for
from hwprune.targets.target import Target

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # before each attempt to connect again
CHUNK_BYTES = 256 * 1024 * 1024  # of models on the device at a time
OPENING_S = 600.0  # TensorRT builds an engine for minutes when it opens a model
NOT_FOUND = 127  # the shell's exit status for a command that does not exist


class SshConnection(Connection):
    """A device behind ``ssh``. Use it in a ``with`` block: at its end nothing is left on the device.

    Args:
        target: its ``connection`` is an ssh address.
        null: a model that does nothing; it and the anchor take part in every visit.
        anchor: a model that is always the same.
        pauses_s: pauses before attempts to connect again after the connection broke.
        dial: opens the channel for a command line.

    Raises:
        InputError: the target names no runtime of ours.
    """

    def __init__(
        self,
        target: Target,
        *,
        null: bytes,
        anchor: bytes,
        pauses_s: Sequence[float] = PAUSES_S,
        dial: Callable[[list[str]], Channel] = Channel,
    ) -> None:
        runtime_for(target)
        self._target, self._null, self._anchor = target, null, anchor
        self._pauses_s, self._dial = pauses_s, dial
        self._folder = f"hwprune-{secrets.token_hex(16)}"
        self._session: Session | None = None
        self._met = False  # the device answered once, so a connection is possible
        self._left = False  # something may be there
        self._device: dict[str, Any] | None = None
        self._parts = 0

    def fingerprint(self) -> dict[str, Any]:
        """See ``Connection.fingerprint``."""
        if self._device is None:
            list(self._replies([]))
        assert self._device is not None
        return self._device

    def run(self, visits: Iterable[Visit]) -> Iterator[dict[str, Any]]:
        """See ``Connection.run``. A connection that breaks is made again; what was finished is not repeated.

        Raises:
            InputError: the device cannot be reached at all, lacks something, or answers nonsense.
            MeasurementError: it is too busy, or was lost and not found again.
            ModelError: it cannot run a model.
        """
        requests = (request(visit, self._target, null=self._null, anchor=self._anchor) for visit in visits)
        for chunk in in_chunks(requests, CHUNK_BYTES):
            yield from self._replies(chunk)

    def close(self) -> None:
        """Remove everything from the device and end the connection; out of reach, the device cleans up by itself."""
        for _ in range(2 if self._left else 0):  # the connection may have broken since it was last used
            with suppress(HwpruneError, ConnectionLost):
                self._reach().remove()
                break
            self._hang_up()
        self._left = False
        self._hang_up()

    def _replies(self, chunk: list[Request]) -> Iterator[dict[str, Any]]:
        self._parts += 1
        runtime, documents = self._target.runtime, [one.document for one in chunk]
        contents = device_files(runtime, worker=True)
        contents |= {name: model for one in chunk for name, model in one.models.items()}
        files = {name: record(content) for name, content in contents.items()}
        contents["job.json"] = job_document(runtime, documents, files, self._parts)
        done, pauses = 0, iter(self._pauses_s)
        while True:
            try:
                with closing(self._attempt(chunk, contents)) as attempt:
                    for index, reply in enumerate(attempt):
                        if index == done:  # not one that came before the connection broke
                            done, pauses = done + 1, iter(self._pauses_s)
                            yield reply
                return
            except ConnectionLost as lost:
                pause = next(pauses, None)
                if pause is None or not self._met or not lost.by_accident:
                    raise self._given_up(lost) from None
            time.sleep(pause)

    def _attempt(self, chunk: list[Request], contents: dict[str, bytes]) -> Generator[dict[str, Any]]:
        """Every reply of a chunk, those of earlier connections first."""
        try:
            session = self._reach()
            missing = session.offer(contents)
            self._met = self._left = True
            session.deliver(missing)
            self._recognise(self._next_line(session, "its fingerprint", ANSWER_S))
            for one in chunk:
                visit = one.visit
                models = len(visit.models) + len(visit.instrumented)
                limit_s = ANSWER_S + OPENING_S * models + 4 * visit.attempts * visit.max_seconds
                yield read_reply(self._next_line(session, f"visit {visit.id}", limit_s), one.id, visit)
            if session.line() is not None:
                raise InputError("the device answered more than was asked", hint=HINT)
        except BaseException:
            self._hang_up()  # who knows what it would say next
            raise

    def _reach(self) -> Session:
        if self._session is None:
            self._session = Session(self._target, self._folder, self._dial)
        return self._session

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _next_line(self, session: Session, about: str, limit_s: float) -> bytes:
        line = session.line(limit_s)
        if line is None:
            raise InputError(f"the device ended without an answer about {about}", hint=HINT)
        return line

    def _recognise(self, line: bytes) -> None:
        device = read_fingerprint(line, self._target.runtime)
        if self._device is None:
            self._device = device
        differing = device_runner.same_device(self._device, device)
        if differing:
            raise InputError(
                f"{self._target.connection} is another device than before: {', '.join(differing)} changed",
                hint="measure again, and leave the device alone meanwhile",
            )

    def _given_up(self, lost: ConnectionLost) -> HwpruneError:
        where, words = self._target.connection, f": {printable(str(lost))}" if str(lost) else ""
        if lost.status == NOT_FOUND:
            return InputError(
                f"{where} has no {self._target.python or 'python3'}{words}",
                hint='install Python 3.8 or later there, or name its interpreter in the target: python = "..."',
            )
        if not lost.by_accident:
            return InputError(
                f"on {where} Python ended with status {lost.status}{words}", hint="try its interpreter there by hand"
            )
        if self._met:
            return MeasurementError(
                f"the connection to {where} was lost and not found again in {len(self._pauses_s)} attempts{words}",
                hint="see that the device is on and its network works, then measure again",
            )
        return InputError(
            f"{where} cannot be used{words}",
            hint=f"this must work without a question: {shlex.join([*ssh_words(self._target), 'true'])}",
        )
