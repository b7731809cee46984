"""A command line in process, and a device whose latencies are made up."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

# Runs are compared bit for bit, across processes too: that needs one number of threads. Read when torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"


@dataclass(frozen=True)
class Answer:
    """What the command line gave back."""

    status: int
    out: str
    err: str


Command = Callable[[str], Answer]


@pytest.fixture
def hwprune(capsys: pytest.CaptureFixture[str]) -> Command:
    """``hwprune("verify bundle")`` runs the verb in this process."""
    from hwprune.cli import main

    def run(line: str) -> Answer:
        capsys.readouterr()
        status = main(shlex.split(line))
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def made_up_device(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """``with made_up_device():`` replaces the clock by one that counts weights, and exports once what is the same."""
    from .compression import fakes

    exports = tmp_path_factory.mktemp("exports")

    def enter() -> ExitStack:
        stack = ExitStack()
        for patch in fakes.made_up_device(exports, fakes.clock()):
            stack.enter_context(patch)
        return stack

    return enter


@pytest.fixture
def on_made_up_device(made_up_device: Callable[[], Any]) -> Iterator[None]:
    with made_up_device():
        yield
