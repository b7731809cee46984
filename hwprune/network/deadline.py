"""A limit to how long tracing may take."""

from __future__ import annotations

import time

from hwprune.errors import ModelError


class Deadline:
    """A point in time after which tracing gives up, naming where it was.

    Args:
        duration_s: seconds from now.
    """

    def __init__(self, duration_s: float) -> None:
        self.duration_s = duration_s
        self._end = time.monotonic() + duration_s

    def check(self, place: str) -> None:
        """Raise ModelError if the time is up."""
        if time.monotonic() > self._end:
            raise ModelError(
                f"tracing took longer than {self.duration_s:g} s; it was at {place}",
                hint="give a smaller example input, or a longer deadline_s",
            )
