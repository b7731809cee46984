"""Checks that a verb makes before it starts long work."""

from __future__ import annotations

import os
from pathlib import Path

from hwprune.errors import InputError


def check_output_file(path: Path) -> None:
    """Refuse an output file that could not be written in the end.

    Raises:
        InputError: its folder is missing or not writable, or the path is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint="give a file name")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist", hint="create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the folder {path.parent} cannot be written", hint="write somewhere else")
