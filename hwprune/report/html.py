"""Pages from the templates beside this file; a page needs no other file."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


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
