"""Strict reading of JSON documents: what is not exactly right is refused with a sentence that says where."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from hwprune.errors import InputError

MAX_CHARACTERS = 64 * 1024 * 1024
MAX_DEPTH = 64  # nothing of ours comes near it; what reads documents may call itself once per level


def parse_json(text: str, *, what: str, hint: str) -> Any:
    """Parse JSON, refusing huge or too deeply nested text, NaN, infinity and repeated keys.

    Args:
        text: the document.
        what: what it should be, for messages ("problem").
        hint: what to give instead.

    Raises:
        InputError: any of these, or not JSON.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"the {what} has {len(text)} characters; at most {MAX_CHARACTERS} are read", hint=hint)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the {what} has the key {twice!r} twice in one object", hint="give every key once")
        return document

    def constant(name: str) -> None:
        raise InputError(f"the {what} contains {name}, which is not a JSON number", hint="give finite numbers")

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
        level = [document]
        for _ in range(MAX_DEPTH):
            level = [inner for one in level for inner in _inside(one)]
        if level:
            raise RecursionError
    except RecursionError:
        raise InputError(f"the {what} is nested too deeply", hint=hint) from None
    except ValueError as error:
        raise InputError(f"the {what} is not JSON: {error}", hint=hint) from None
    return document


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def fields(value: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object with exactly these keys.

    Raises:
        InputError: not an object, a key missing, or an unknown key (the nearest known one is named).
    """
    document = mapping(value, where)
    known = (*required, *optional)
    for key in document:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"{where} has the unknown key {key!r}", hint=f"{meant}known keys: {', '.join(known)}")
    for key in required:
        if key not in document:
            raise InputError(f"{where} lacks the key {key!r}", hint=f"required keys: {', '.join(required)}")
    return document


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object, whatever its keys."""
    if not isinstance(value, dict):
        raise InputError(f"{where} is {_kind(value)}, not an object", hint="give an object: {…}")
    return value


def items(value: Any, where: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise InputError(f"{where} is {_kind(value)}, not a list", hint="give a list: […]")
    return value


def text(value: Any, where: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise InputError(f"{where} is {_kind(value)}, not a string", hint='give a string: "…"')
    return value


def number(value: Any, where: str) -> float:
    """A finite number; true and false are not numbers."""
    try:
        result = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        result = math.inf
    if math.isnan(result):
        raise InputError(f"{where} is {_kind(value)}, not a number", hint="give a finite number")
    if math.isinf(result):
        raise InputError(f"{where} is too large for a number", hint="give a finite number")
    return result


def integer(value: Any, where: str) -> int:
    """A whole number; true, false and 16.0 are not whole numbers."""
    if isinstance(value, bool) or not isinstance(value, int):
        found = value if isinstance(value, float) else _kind(value)
        raise InputError(f"{where} is {found}, not a whole number", hint="give a whole number")
    return value


def each(value: Any, where: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    """A list with every item read by ``read(item, where)``."""
    return tuple(read(item, f"{where}[{i}]") for i, item in enumerate(items(value, where)))


def _kind(value: Any) -> str:
    for kind, name in ((dict, "an object"), (list, "a list"), (str, "a string"), (bool, str(value).lower())):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a number"
