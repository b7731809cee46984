"""Runs that are killed at chosen steps of a pruner."""

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


def killed_and_resumed(
    folder: Path, device: Any, exports: Path, settings: dict[str, Any], stops: Sequence[int]
) -> tuple[Path, Path]:
    """A run that nothing disturbed, and one that was killed at these steps; both end alike."""
    whole, run = folder / "whole", folder / "killed"
    with device():
        compress(fakes.config(whole, **settings))
    worker = Path(__file__).parent / "step_kill_worker.py"
    ended = subprocess.run(
        [sys.executable, worker, run, exports, json.dumps(settings), json.dumps(stops)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [-signal.SIGKILL] * len(stops) + [0], ended.stderr
    assert fakes.outcome(run) == fakes.outcome(whole)
    assert fakes.half_written(run) == []
    return whole, run
