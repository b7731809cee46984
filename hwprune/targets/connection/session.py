"""The conversation with the receiver on a device; ``receiver.py`` is its other end, and says what is exchanged."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

from hwprune import device_runner
from hwprune import strict_json as strict
from hwprune.errors import InputError
from hwprune.targets.address import Address
from hwprune.targets.connection.channel import Channel
from hwprune.targets.connection.job import record
from hwprune.targets.connection.replies import HINT, parse, printable
from hwprune.targets.target import Target

ANSWER_S = 300.0
BYTES_PER_S = 20_000  # a slower link counts as none
_OPTIONS = (
    "BatchMode=yes",  # never ask
    "ConnectTimeout=20",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=6",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "RequestTTY=no",
    "ControlMaster=no",
)
# Runs the receiver, which arrives on stdin, if it arrived whole. Without single quotes: it passes through a shell.
_BOOT = (
    "import sys; "
    'sys.version_info < (3, 8) and sys.exit("hwprune needs Python 3.8 or later, this is " + sys.version); '
    "sys.path[:] = filter(None, sys.path); "
    "import hashlib; "
    "text = sys.stdin.buffer.read({bytes}); "
    'hashlib.sha256(text).hexdigest() == "{sha256}" or sys.exit("the receiver did not arrive whole"); '
    'exec(compile(text, "receiver", "exec"))'
)


def ssh_words(target: Target) -> list[str]:
    """Ssh's command line up to and including the host."""
    config = ["-F", os.path.expanduser(target.ssh_config)] if target.ssh_config else []
    options = [word for option in _OPTIONS for word in ("-o", option)]
    return ["ssh", *config, *options, *Address.parse(target.connection).arguments()]


def _receiver() -> bytes:
    return resources.files("hwprune.targets.connection").joinpath("receiver.py").read_bytes()


class Session:
    """One connection to a device.

    Args:
        target: its ``connection`` is an ssh address.
        folder: name of the folder on the device.
        dial: opens the channel for a command line.

    Raises:
        InputError: there is no ssh here.
    """

    def __init__(self, target: Target, folder: str, dial: Callable[[list[str]], Channel]) -> None:
        self._target, self._folder = target, folder
        self._python = target.python or "python3"
        source = _receiver()
        self._channel = dial([*ssh_words(target), shlex.join([self._python, "-c", _BOOT.format(**record(source))])])
        self._channel.send(source, limit_s=ANSWER_S)

    def offer(self, contents: Mapping[str, bytes]) -> list[bytes]:
        """Say what files the worker needs; returns those to ``deliver``, for they are not there.

        Raises:
            ConnectionLost: it is.
            InputError: the device says why it cannot, or something that is no answer.
        """
        self._order("run", files={name: record(content) for name, content in contents.items()})
        missing = strict.fields(self._answer(), "the device's answer", required=("missing",))["missing"]
        names = strict.each(missing, "missing", strict.text)
        for name in names:
            if name not in contents or names.count(name) > 1:
                raise InputError(f"the device asks for {printable(name)!r}, which it has no use for", hint=HINT)
        return [contents[name] for name in names]

    def deliver(self, missing: Iterable[bytes]) -> None:
        """Send files; the worker starts when the last has arrived as it was sent."""
        for content in missing:
            self._channel.send(content, limit_s=ANSWER_S + len(content) / BYTES_PER_S)

    def line(self, limit_s: float = ANSWER_S) -> bytes | None:
        """The next line of results; None when the worker has ended well.

        Raises:
            ConnectionLost: it is.
            MeasurementError: none came in time.
            InputError: the worker failed.
        """
        line = self._channel.receive(limit_s=limit_s)
        if line.startswith(b'{"problem"'):
            raise self._problem(line)
        if not line.startswith(b'{"finished"'):
            return line
        end = strict.fields(parse(line), "the device's answer", required=("finished", "stderr"))
        status, words = strict.integer(end["finished"], "finished"), strict.text(end["stderr"], "stderr")
        if status == 0:
            return None
        raise self._failed(status, printable(words))

    def _failed(self, status: int, words: str) -> InputError:
        lacking = re.search(r"No module named '([\w.]+)'", words)
        if lacking is None:
            signal = "that is a signal, -9 often for want of memory; see the device's system log"
            return InputError(
                f"the worker on the device ended with status {status}: {words or 'it said nothing'}",
                hint=signal if status < 0 else f"mend it there, for {self._python}",
            )
        package = device_runner.ENGINES[self._target.runtime][0]
        return InputError(
            f"{lacking[1]} is not installed on {self._target.connection}",
            hint=f"run there: {shlex.quote(self._python)} -m pip install numpy {package}",
        )

    def remove(self) -> None:
        """Remove the folder.

        Raises:
            ConnectionLost: before it was.
            InputError: the device says why it cannot.
        """
        self._order("remove")
        strict.fields(self._answer(), "the device's answer", required=("removed",))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _order(self, do: str, **more: Any) -> None:
        order = json.dumps({"do": do, "folder": self._folder, **more}).encode() + b"\n"
        self._channel.send(order, limit_s=ANSWER_S)

    def _answer(self) -> dict[str, Any]:
        line = self._channel.receive(limit_s=ANSWER_S)
        if line.startswith(b'{"problem"'):
            raise self._problem(line)
        return parse(line)

    def _problem(self, line: bytes) -> InputError:
        given = strict.fields(parse(line), "the device's answer", required=("problem",))["problem"]
        words = printable(strict.text(given, "problem")) or "it does not say why"
        return InputError(f"{self._target.connection} cannot do it: {words}", hint="nothing was left there; mend it")
