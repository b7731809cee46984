"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside ``path``, sync, rename over it.

    Args:
        path: the file to create or replace; its folder must exist.
        content: text is written as UTF-8.

    Raises:
        OSError: disk full, read-only folder…; the temporary file is removed first.
    """
    with replacing_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``path`` when the block ends well, and else is removed.

    Raises:
        OSError: as ``write_atomic``.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):  # interrupted just after the rename: the file is in place, whole
            os.unlink(temporary)
        raise


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically; NaN and infinity are refused (ValueError)."""
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``path`` as a whole when the block ends well.

    What is there before stays until then, and stays for good when the block fails. A kill leaves at most
    hidden neighbours (``.NAME.partial``, ``.NAME.old``), which the next call for the same path clears up;
    if the kill came between the two renames, that call begins by putting the earlier folder back.

    Args:
        path: the folder to create or replace; missing parents are made.

    Yields:
        the empty folder to fill, on the same file system.

    Raises:
        OSError: disk full, read-only…; ``path`` is as it was.
    """
    partial, old = path.parent / f".{path.name}.partial", path.parent / f".{path.name}.old"
    _put_back(old, path)
    for leftover in (partial, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(old, path)
        shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        os.rename(old, path)
