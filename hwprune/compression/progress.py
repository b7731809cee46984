"""What a compression tells the person who waits: bars on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hwprune.training import processes


class Progress:
    """Says what is going on; of several processes the first one does.

    Args:
        quiet: say nothing (library use).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    @property
    def _silent(self) -> bool:
        return self._quiet or not processes().first

    def say(self, text: str) -> None:
        """One plain line."""
        if not self._silent:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int, str], None]]:
        """A bar on a terminal, a line at the end elsewhere.

        Yields:
            a function of (done, total, what is being done now).
        """
        if self._silent or not sys.stderr.isatty():
            self.say(title)
            yield lambda done, total, now: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=Console(stderr=True)) as display:
            task = display.add_task(title, total=None)

            def advance(done: int, total: int, now: str) -> None:
                display.update(task, completed=done, total=total, description=f"{title}: {now}" if now else title)

            yield advance
