"""Where results go: one JSON document on stdout, or text for people."""

from __future__ import annotations

import json
from typing import Any


def emit(document: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Print a result.

    Args:
        document: the machine's form.
        as_json: print ``document`` instead of ``text``.
        text: the reader's form.
    """
    print(json.dumps(document, indent=1, allow_nan=False) if as_json else text)


def milliseconds(latency: dict[str, Any]) -> str:
    """``1.234 ms (p90 1.301, 180 runs)``."""
    return f"{latency['p50']:.4g} ms (p90 {latency['p90']:.4g}, {latency['repeats']} runs)"
