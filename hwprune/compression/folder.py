"""The run folder: everything about one compression, safe to kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from hwprune.budget import Plan
from hwprune.errors import InputError
from hwprune.files import write_json
from hwprune.training import load_checkpoint, processes, save_checkpoint

SCHEMA_VERSION = 1
_CONTENT = {"status": str, "config": dict, "stages": dict}
P = ParamSpec("P")


def _by_first(method: Callable[P, None]) -> Callable[P, None]:
    """Done by the first process; the others do nothing."""

    @wraps(method)
    def guarded(*given: P.args, **named: P.kwargs) -> None:
        if processes().first:
            method(*given, **named)

    return guarded


class RunFolder:
    """One compression on disk.

    ``run.json`` holds the resolved configuration and the result of every finished stage; it is replaced
    as a whole, so it always reads. ``history.jsonl`` is appended to, one event a line; a last line that
    was cut short by a kill is ignored. Large files are written beside and renamed.

    Of several processes the first one alone reads and writes it; the others hold a copy of the document.

    Args:
        path: the folder; its parent must exist or be creatable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: dict[str, Any] = {}

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a folder that holds something already, or a path where no folder can be made.

        Raises:
            InputError: saying which.
        """
        if path.is_dir() and not _never_began(path):
            known = " (an earlier run)" if (path / "run.json").exists() else ""
            raise InputError(
                f"output folder {path} is not empty{known}",
                hint="give another --output" + (", or --resume to continue the run that is there" if known else ""),
            )
        existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"cannot write to {path}", hint="give --output a folder with write permission")

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> RunFolder:
        """Start a run in a new or empty folder.

        Raises:
            InputError: the folder holds something already, or cannot be written.
        """
        cls.check_free(path)
        run, existed = cls(path), path.exists()
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            run.document = {"schema_version": SCHEMA_VERSION, "status": "running", "config": config, "stages": {}}
            run.save()
        except OSError as error:
            shutil.rmtree(path / "checkpoints" if existed else path, ignore_errors=True)
            raise cannot_write(path, error) from error
        return run

    @classmethod
    def load(cls, path: Path) -> RunFolder:
        """Open a run that was started before.

        Raises:
            InputError: there is no run, or its ``run.json`` is not one.
        """
        run = cls(path)
        try:
            run.document = json.loads((path / "run.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"no run in {path}: run.json is missing",
                hint="give the folder that compress wrote; one that was stopped before it wrote anything starts anew",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path / 'run.json'} cannot be read: {error}", hint="it was edited or damaged") from error
        document = run.document
        if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{path / 'run.json'} is not a run of this hwprune (schema_version {SCHEMA_VERSION})",
                hint="continue it with the version that wrote it",
            )
        lacking = [name for name, kind in _CONTENT.items() if not isinstance(document.get(name), kind)]
        if lacking:
            raise InputError(
                f"{path / 'run.json'} lacks {', '.join(lacking)}", hint="it was edited or damaged; start a new run"
            )
        return run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of this run.

        Raises:
            InputError: another process works on this run.
        """
        if not processes().first:
            yield
            return
        try:
            file = open(self.path / ".lock", "w")  # noqa: SIM115 (closed below; only opening it is reported so)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"another process works on the run in {self.path}", hint="wait for it, or stop it first"
                ) from error
            yield

    @_by_first
    def tidy(self) -> None:
        """Remove what a kill left half-written; to be called under the lock."""
        (self.path / "checkpoints").mkdir(exist_ok=True)
        for folder in (self.path, self.path / "checkpoints"):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()

    def finish(self) -> None:
        """Mark the run as done, then drop the checkpoints: in this order, for they are what it resumes from."""
        self.document["status"] = "done"
        self.save()
        self.drop_checkpoints()

    @_by_first
    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of a run that is done."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration the run was started with."""
        config = self.document["config"]
        assert isinstance(config, dict)
        return config

    def stage(self, name: str) -> Any:
        """What a finished stage recorded, or None."""
        return self.document["stages"].get(name)

    def finish_stage(self, name: str, record: Any) -> None:
        """Record a stage as finished."""
        self.document["stages"][name] = record
        self.save()

    @_by_first
    def save(self) -> None:
        """Replace ``run.json``."""
        write_json(self.path / "run.json", self.document)

    @_by_first
    def event(self, kind: str, **values: Any) -> None:
        """Append one line to ``history.jsonl``."""
        line = json.dumps({"event": kind, **values}, allow_nan=False) + "\n"
        path = self.path / "history.jsonl"
        with open(path, "a+b") as file:
            if file.tell() and _last_byte(path) != b"\n":
                file.write(b"\n")  # a kill cut the last line short: never glue two events together
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    @_by_first
    def epoch_event(self, kind: str, **values: Any) -> None:
        """Append an event about an epoch, unless a run that was killed before its checkpoint wrote it already."""
        about = {"event": kind, "epoch": values["epoch"], "attempt": values.get("attempt")}
        if not any({key: event.get(key) for key in about} == about for event in self.history()):
            self.event(kind, **values)

    def history(self) -> list[dict[str, Any]]:
        """Every whole line of ``history.jsonl``."""
        path = self.path / "history.jsonl"
        events = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue  # the one line that a kill cut short
        return events

    @_by_first
    def keep(self, name: str, tree: Any) -> None:
        """Write a checkpoint (:func:`hwprune.training.save_checkpoint`)."""
        save_checkpoint(self.checkpoint(name), tree)

    def kept(self, name: str, *, optional: bool = False) -> Any:
        """What a checkpoint holds, for all processes; with ``optional`` None if there is none."""
        path = self.checkpoint(name)
        return processes().from_first(lambda: None if optional and not path.exists() else load_checkpoint(path))

    def plan(self) -> Plan:
        """The plan that the closed loop settled on, for all processes."""
        return processes().from_first(lambda: Plan.load(self.path / "plan.json"))

    def checkpoint(self, name: str) -> Path:
        """Path of a checkpoint file."""
        return self.path / "checkpoints" / f"{name}.safetensors"


def _never_began(path: Path) -> bool:
    """Whether a folder is empty, or holds only what is left of a run that was killed before it had written anything."""
    names = [entry.name for entry in path.iterdir()]
    begun = [name for name in names if name != "checkpoints" and not fnmatch(name, ".*.tmp")]
    return not begun and ("checkpoints" not in names or not any((path / "checkpoints").iterdir()))


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for an output that cannot be written: full disk, read-only, not a folder."""
    return InputError(
        f"cannot write to {path}: {error.strerror or error}",
        hint="give --output a folder with space and write permission",
    )
