"""The command line: one verb per file, each a thin layer over the Python API."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; see :func:`hwprune.cli.app.main`."""
    try:
        from hwprune.cli.app import main as run  # Ctrl-C may come while this is still loading

        return run(arguments)
    except KeyboardInterrupt:
        print("error: interrupted\n\nhint: give the same command again", file=sys.stderr)
        return 130
