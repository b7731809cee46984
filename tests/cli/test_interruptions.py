"""Ctrl-C and a full disk at any moment: a clear end, and a run that goes on or was never there."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hwprune.compression import pipeline, stages

from .workshop import COMPRESS, MODEL

MACS = f"{COMPRESS} --macs 0.5x"


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts background jobs deaf to Ctrl-C, and their children inherit it; these tests may run in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def half_written(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial", ".old"))]


@pytest.mark.parametrize("stage", ["baseline", "reach", "explore", "settle", "finetune", "artifact", "deliver"])
def test_ctrl_c_is_130_and_the_run_goes_on(stage: str, hwprune: Any, workshop: Path) -> None:
    place = pipeline if stage == "deliver" else stages
    with mock.patch.object(place, stage, side_effect=lambda *_: os.kill(os.getpid(), signal.SIGINT)):
        answer = hwprune(f"{MACS} --json")
    assert (answer.status, answer.out) == (130, "")
    assert answer.err.endswith(
        "error: interrupted\n\nhint: the same command with --resume goes on from there, if the run had begun\n"
    )
    resumed = hwprune(f"{MACS} --json --resume")
    assert json.loads(resumed.out)["budget_met"] is True
    assert half_written(workshop) == []


def test_ctrl_c_before_anything_was_written(hwprune: Any, workshop: Path) -> None:
    answer = hwprune(f"export {MODEL.replace(':build', ':interrupted')} --output out")
    assert (answer.status, answer.out) == (130, "")
    assert answer.err == "error: interrupted\n\nhint: nothing was written\n"
    assert not (workshop / "out").exists()


def test_ctrl_c_in_a_process_of_its_own(workshop: Path) -> None:
    line = f"compress {MODEL.replace(':build', ':interrupted')} --data images.npz --macs 0.5x --output run"
    ended = subprocess.run(
        [sys.executable, "-m", "hwprune", *line.split()], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "error: interrupted\n\nhint: " in ended.stderr
    assert not (workshop / "run").exists()


def test_a_disk_that_fills_up_at_any_write(hwprune: Any, workshop: Path) -> None:
    """Each time the disk takes one file more; what is on it by then is never lost."""
    full, sync = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), os.fsync
    resumed, writes = False, 0
    while True:
        taken = iter(range(writes, 0, -1))

        def fsync(handle: int, taken: Any = taken) -> None:
            if next(taken, None) is None:
                raise full
            sync(handle)

        with mock.patch.object(os, "fsync", fsync):
            answer = hwprune(f"{MACS} --resume" if resumed else MACS)
        if answer.status == 0:
            break
        assert answer.status == 2, answer.err
        assert "No space left on device" in answer.err
        assert "\nhint: " in answer.err
        assert "Traceback" not in answer.err
        assert half_written(workshop) == []
        resumed = (workshop / "run").exists()
        writes += 3
    assert resumed, "the run was never kept"
    assert hwprune("verify run/bundle").status == 0


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))


def test_files_that_may_not_grow(workshop: Path) -> None:
    """A limit of the operating system, in a process of its own: the weights do not fit."""
    command = [sys.executable, "-m", "hwprune", *MACS.split()]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limited)
    assert ended.returncode == 2, ended.stderr
    assert "error: cannot write to run: File too large\n\nhint: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (workshop / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_result_that_cannot_be_printed_is_no_success(workshop: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "hwprune", "targets", "--json"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: output: the disk is full\n\nhint: ")
    assert "Traceback" not in ended.stderr
