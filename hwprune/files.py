"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write to a temporary name beside ``path``, sync, rename over it.

    Args:
        path: the file to create or replace; its folder must exist.
        content: text is written as UTF-8.

    Raises:
        OSError: disk full, read-only folder…; the temporary file is removed first.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically; NaN and infinity are refused (ValueError)."""
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
