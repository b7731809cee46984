"""Where results go: one JSON document on stdout, or text for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

_results: list[TextIO] = []


@contextmanager
def results_alone() -> Iterator[None]:
    """While a verb works, only :func:`emit` reaches stdout; what a user's model or data prints goes to stderr."""
    _results.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


def emit(document: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Print a result.

    Args:
        document: the machine's form.
        as_json: print ``document`` instead of ``text``.
        text: the reader's form.
    """
    # flushed here, where a full disk or a closed pipe is still reported like any other error
    content = json.dumps(document, indent=1, allow_nan=False) if as_json else text
    print(content, file=_results[-1] if _results else sys.stdout, flush=True)


def milliseconds(latency: dict[str, Any]) -> str:
    """``1.234 ms (p90 1.301, 180 runs)``."""
    return f"{latency['p50']:.4g} ms (p90 {latency['p90']:.4g}, {latency['repeats']} runs)"
