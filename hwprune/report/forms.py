"""The forms of a page, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from hwprune.errors import InputError
from hwprune.files import write_atomic
from hwprune.report.content import Page
from hwprune.report.html import html
from hwprune.report.markdown import markdown

Form = Literal["html", "md"]


def form_of(name: str) -> Form:
    """The form of that name.

    Raises:
        InputError: there is none.
    """
    for form in get_args(Form):
        if name == form:
            known: Form = form
            return known
    raise InputError(f"format {name!r} is unknown", hint=f"one of {', '.join(get_args(Form))}")


def formed(page: Page, form: Form) -> str:
    """The page's text in that form."""
    return html(page) if form == "html" else markdown(page)


def write_page(path: Path, text: str) -> Path:
    """Write a page; it appears whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_atomic(path, text)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", hint="choose a folder with space and write permission"
        ) from error
    return path
