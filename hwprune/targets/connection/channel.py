"""One ssh process: bytes in, lines out, nothing without an end."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from hwprune.errors import HwpruneError, InputError, MeasurementError

MAX_LINE = 8 * 1024 * 1024
TAIL = 4000
ENDING_S = 5.0  # a process that has nothing more to say ends within
SSH_FAILED = 255  # ssh's own exit status


class ConnectionLost(Exception):
    """The other end is not there (any more); the message holds what was seen.

    Attributes:
        status: exit status of ssh, which is that of what ran on the device when that ended by itself.
        by_accident: the connection broke, or a process was killed; a new connection may do better.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.by_accident = status <= 0 or status == SSH_FAILED


class Channel:
    """A process that carries our bytes to a device and its lines back.

    Args:
        command: the words of the command line.

    Raises:
        InputError: there is no such program.
    """

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        except OSError as error:
            raise InputError(
                f"cannot run {command[0]}: {error.strerror}", hint="install OpenSSH's client (Debian: openssh-client)"
            ) from error
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self._rest = bytearray()
        self._tail = b""
        self._late_s: float | None = None
        self._reader = threading.Thread(target=self._keep_tail, daemon=True)
        self._reader.start()

    def _keep_tail(self) -> None:
        assert self._process.stderr
        with self._process.stderr as errors:
            while piece := os.read(errors.fileno(), 65536):
                self._tail = (self._tail + piece)[-TAIL:]

    @contextmanager
    def _within(self, limit_s: float) -> Iterator[None]:
        """Whatever blocks for longer ends with the process."""

        def stop() -> None:
            self._late_s = limit_s
            self._process.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def send(self, content: bytes, *, limit_s: float) -> None:
        """Send bytes. If nobody takes them, or not in time, ``receive`` tells: it knows the other end's last words."""
        view = memoryview(content)
        with self._within(limit_s), suppress(BrokenPipeError):
            while view:
                view = view[self._in.write(view) or 0 :]

    def receive(self, *, limit_s: float) -> bytes:
        """The next line, without its end.

        Raises:
            ConnectionLost: none will come.
            MeasurementError: none came in time.
            InputError: it is longer than any answer of ours.
        """
        with self._within(limit_s):
            while (end := self._rest.find(b"\n")) < 0:
                if len(self._rest) > MAX_LINE:
                    raise InputError(
                        f"the device sent a line of more than {MAX_LINE} bytes",
                        hint="something else than hwprune answers there; see what ssh HOST true prints",
                    )
                piece = os.read(self._out.fileno(), 65536)
                if not piece:
                    raise self._end()
                self._rest += piece
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _end(self) -> ConnectionLost | HwpruneError:
        status, words = self.close(ENDING_S)
        if self._late_s is not None:
            message = f"the device did not do its part within {self._late_s:.3g} s"
            return MeasurementError(message, hint="see what it is doing, then try again")
        return ConnectionLost(words, status)

    def close(self, patience_s: float = 0.5) -> tuple[int, str]:
        """End the process, if it does not end by itself; returns its exit status and its last words."""
        with suppress(OSError):
            self._in.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = self._process.wait()
        self._out.close()
        self._reader.join(ENDING_S)
        return status, self._tail.decode(errors="replace").strip()
