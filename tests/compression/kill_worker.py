"""A compression that is killed after every file it writes, and resumed each time; run by test_resume.py.

Every life of the run is a forked process that ends itself with SIGKILL: right after its first file appeared, with its
second file written but not renamed, with an event of the history half written, or within the bundle. Prints how each
life ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import fakes
import onnxruntime  # noqa: F401 (imported once, before the forks)

import hwprune.report
from hwprune.compression import RunFolder, compress, resumed_config


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_within_an_event(self: RunFolder, kind: str, **values: Any) -> None:
    with open(self.path / "history.jsonl", "ab") as file:
        file.write(json.dumps({"event": kind, **values}).encode()[:-9])
    die()


class FilesOfTheRun(fakes.Writes):
    """A bundle is one file here: it appears as a whole, and a life that ends within it begins it anew."""

    def __call__(self, source: Any, destination: Any) -> None:
        if Path(destination).parent.name == ".bundle.partial":
            self._replace(source, destination)
        else:
            super().__call__(source, destination)


class WithinTheBundle(fakes.Writes):
    """Dies once, with half of a bundle written."""

    def __call__(self, source: Any, destination: Any) -> None:
        self._replace(source, destination)
        died = self.run.parent / "died within the bundle"
        if Path(destination).name == "golden.npz" and not died.exists():
            died.touch()
            die()


def live(life: int, run: Path, exports: Path, table: Path) -> None:
    """One life: it is killed, or finishes."""
    clock = fakes.slow_when_delivered(run, 1.08)
    with contextlib.ExitStack() as stack:
        for patch in fakes.made_up_device(exports, clock):
            stack.enter_context(patch)
        kind = life % 4
        if kind == 0:
            stack.enter_context(FilesOfTheRun(run, die, at=1).armed())
        elif kind == 1:
            stack.enter_context(FilesOfTheRun(run, die, at=2, after=False).armed())
        elif kind == 2:
            stack.enter_context(fakes.mock.patch.object(RunFolder, "event", die_within_an_event))
            stack.enter_context(FilesOfTheRun(run, die, at=3).armed())
        else:
            stack.enter_context(WithinTheBundle(run, die).armed())
            stack.enter_context(
                fakes.mock.patch.object(RunFolder, "finish_stage", killed_after(RunFolder.finish_stage))
            )
        if (run / "run.json").exists():
            compress(resumed_config(run), resume=True)
        else:
            compress(fakes.config(run, latency="0.5x", table=table))


def killed_after(method: Any) -> Any:
    def wrapped(*given: Any) -> None:
        method(*given)
        die()

    return wrapped


def main(run: Path, exports: Path, table: Path) -> None:
    endings = []
    while not endings or endings[-1] != 0:
        child = os.fork()
        if child == 0:
            code = 3
            try:
                live(len(endings), run, exports, table)
                code = 0
            finally:
                sys.stderr.flush()
                if code:
                    import traceback

                    traceback.print_exc()
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        endings.append(ended)
        if ended not in (0, -signal.SIGKILL) or len(endings) > 120:
            break
    print(json.dumps(endings))


if __name__ == "__main__":
    assert hwprune.report
    main(*(Path(argument) for argument in sys.argv[1:]))
