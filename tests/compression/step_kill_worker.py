"""A compression that is killed at chosen steps of its pruner, and resumed each time; run by the tests of resuming.

Every life of the run is a forked process that ends itself with SIGKILL right after a step of the pruner: of channels,
counted from the first life on, or of single weights, counted from where the life began.
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
from hwprune.compression import compress, resumed_config
from hwprune.compression.sparse_ways import Bidirectional, ByRule, Recoverable, Way
from hwprune.regrow import ExploringPruner


def killed_at(stop: int, way: type[Way] | None) -> Any:
    if way is not None:
        return killed_after(stop, way)
    step = ExploringPruner.step

    def stepping(self: ExploringPruner, optimizer: Any = None) -> None:
        step(self, optimizer)
        if self._calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    return fakes.mock.patch.object(ExploringPruner, "step", stepping)


def killed_after(stop: int, way: type[Way]) -> Any:
    step, calls = way.step, []

    def stepping(self: Way) -> None:
        step(self)
        calls.append(self)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    return fakes.mock.patch.object(way, "step", stepping)


def live(run: Path, exports: Path, settings: dict[str, Any], stop: int) -> None:
    with contextlib.ExitStack() as stack:
        for patch in fakes.made_up_device(exports, fakes.clock()):
            stack.enter_context(patch)
        kinds = {"bidirectional": Bidirectional, "recoverable": Recoverable}
        way = kinds.get(settings["sparsify"], ByRule) if "sparsify" in settings else None
        stack.enter_context(killed_at(stop, way))
        if (run / "run.json").exists():
            compress(resumed_config(run), resume=True)
        else:
            compress(fakes.config(run, **settings))


def main(run: Path, exports: Path, settings: dict[str, Any], stops: list[int]) -> None:
    endings = []
    for stop in [*stops, 0]:
        child = os.fork()
        if child == 0:
            code = 3
            try:
                live(run, exports, settings, stop)
                code = 0
            finally:
                if code:
                    import traceback

                    traceback.print_exc()
                sys.stderr.flush()
                os._exit(code)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(endings))


assert hwprune.report  # imported once, before the forks
main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
