"""A page as Markdown, for a pull request: the verdict and the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from hwprune.report.content import Link, Page, Promise, Section, Table
from hwprune.report.inspection import readable

MOST_ROWS = 200  # of a table: hosts of pull requests limit a text's length
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_RUN = re.compile("`+")


def markdown(page: Page) -> str:
    """GitHub's dialect; what a user named is text, never markup."""
    return "\n\n".join(_blocks(page)) + "\n"


def escaped(text: str) -> str:
    """On one line, every character that could mean something else preceded by a backslash."""
    return _MARKS.sub(r"\\\1", _on_one_line(text))


def _on_one_line(text: str) -> str:
    return readable(" ".join(text.split()))


def _blocks(page: Page) -> Iterator[str]:
    yield f"# {escaped(page.title)}"
    for promise in page.verdict:
        yield _promise(promise)
    for section in page.sections:
        if section.tables or section.command or not section.pictures:
            yield from _section(section)


def _promise(promise: Promise) -> str:
    text = escaped(promise.text)
    return text if promise.met is None else f"**{text}**"


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield f"## {escaped(section.title)}"
    yield from map(escaped, section.words)
    if section.command:
        fence = "`" * max(3, 1 + max(map(len, _RUN.findall(section.command)), default=0))
        yield f"{fence}sh\n{readable(section.command)}\n{fence}"
    for table in section.tables:
        if table.folded:
            yield f"<details><summary>{escape(_on_one_line(table.folded))}</summary>"
        yield _table(table)
        if table.folded:
            yield "</details>"


def _table(table: Table) -> str:
    sides = ["---:" if place and place not in table.text else ":---" for place in range(len(table.headings))]
    shown = [[_cell(cell) for cell in row] for row in table.rows[:MOST_ROWS]]
    rest = len(table.rows) - len(shown)
    if rest:
        shown.append([f"and {rest} more, in the HTML form"])
    lines = [[escaped(heading) for heading in table.headings], sides, *shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: str | Link) -> str:
    return f"[{escaped(cell.text)}](<{escaped(cell.address)}>)" if isinstance(cell, Link) else escaped(cell)
