"""A page as one HTML file that needs no other, and whatever else is made from the templates beside this file."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hwprune.report.content import Link, Page


def html(page: Page) -> str:
    """No script and no address outside; dark where the reader's system is; as wide as the window, whatever it holds."""
    return rendered("report.html.j2", page=page, is_link=lambda cell: isinstance(cell, Link))


def rendered(template: str, **values: Any) -> str:
    """Fill in a template; what is not given is an error, and text is escaped."""
    environment = Environment(
        loader=PackageLoader("hwprune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
