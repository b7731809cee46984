"""What a page says, in the order it is read; HTML and Markdown are two forms of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Promise(NamedTuple):
    """One sentence of a verdict.

    Attributes:
        text: the sentence.
        met: whether what was asked for is so; None if nothing was asked, or it is not known.
    """

    text: str
    met: bool | None = None


class Link(NamedTuple):
    """A cell that leads to another page.

    Attributes:
        text: what stands there.
        address: relative to the page.
    """

    text: str
    address: str


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first column is text.

    Attributes:
        headings: one per column.
        rows: of as many cells each, or fewer.
        text: which other columns are text; numbers stand to the right.
        folded: what stands for the table until it is opened; empty if it always shows.
    """

    headings: tuple[str, ...]
    rows: Sequence[Sequence[str | Link]]
    text: tuple[int, ...] = ()
    folded: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing, made only where it is shown.

    Attributes:
        draw: gives the ``svg`` element (:mod:`hwprune.report.drawing`).
        description: for those who do not see it.
    """

    draw: Callable[[], str]
    description: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One subject of a page: words, then what is to be typed, then pictures, then tables.

    Attributes:
        title: empty for what stands under the page's own title.
        words: paragraphs.
        command: a command line.
        pictures: without those that there is nothing for.
        tables: likewise.
    """

    title: str
    words: tuple[str, ...] = ()
    command: str = ""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page.

    Attributes:
        title: what it is about.
        verdict: what it came to.
        sections: everything else.
    """

    title: str
    verdict: tuple[Promise, ...] = ()
    sections: tuple[Section, ...] = ()
