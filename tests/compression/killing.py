"""Runs that are killed, again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwprune.compression import compress

from . import fakes


def lives(worker: str, *arguments: object) -> tuple[list[int], str]:
    """The exit statuses of every life of a run that a worker kills and resumes, and what it said on stderr."""
    ended = subprocess.run(
        [sys.executable, Path(__file__).parent / worker, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def killed_and_resumed(
    folder: Path, device: Any, exports: Path, settings: dict[str, Any], stops: Sequence[int]
) -> tuple[Path, Path]:
    """A run that nothing disturbed, and one that was killed at these steps; both end alike."""
    whole, run = folder / "whole", folder / "killed"
    with device():
        compress(fakes.config(whole, **settings))
    ended, said = lives("step_kill_worker.py", run, exports, json.dumps(settings), json.dumps(stops))
    assert ended == [-signal.SIGKILL] * len(stops) + [0], said
    assert fakes.outcome(run) == fakes.outcome(whole)
    assert fakes.half_written(run) == []
    return whole, run
