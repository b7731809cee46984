"""Documents with something wrong in them, made from right ones; the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

SCALARS = [
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 2**31, 2**63,
    10**400, "", "0", "1.5", "null", "NaN", "\ud800", "\x1b[2J", "a" * 5000, "../..", [], {}, [[]], [None], {"": 0},
    {"id": "a"}, {"__class__": "x"},
]  # fmt: skip
TEXTS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000, b"null", b"[" * 100_000, b'{"a":' * 3000,
    b'"\\ud800"', b"\xff", b"\x00", b"\n", b"\r\n", b"//", b",", b'""', b"0x10", b"1_000", b"01", b"+1", b".5",
]  # fmt: skip


def mutated_document(document: Any, chance: random.Random) -> Any:
    """A copy with one to three values changed, lost, moved or made up."""
    changed = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        parent, key = _place(changed, chance)
        if parent is None:
            return chance.choice(SCALARS)
        _change(parent, key, chance)
    return changed


def _place(document: Any, chance: random.Random) -> tuple[Any, Any]:
    """Any container and a key of it, as likely deep as shallow."""
    parent, key, here = None, None, document
    while isinstance(here, (dict, list)) and here and (parent is None or chance.random() < 0.85):
        parent = here
        key = chance.choice(list(here)) if isinstance(here, dict) else chance.randrange(len(here))
        here = parent[key]
    return parent, key


def _change(parent: Any, key: Any, chance: random.Random) -> None:
    value = parent[key]
    how = chance.randrange(8)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[chance.choice(("", "x", f"{key}s", str(key).upper(), "unit"))] = value
    elif how == 1:
        parent.insert(key, copy.deepcopy(value))
    elif how == 2 and isinstance(parent, dict):
        other = chance.choice(list(parent))
        parent[key], parent[other] = parent[other], parent[key]
    elif how == 3 and type(value) in (int, float) and abs(value) < 1e200:
        parent[key] = chance.choice((-value, value + 1, value * 1000, value / 1000, float(value), str(value), [value]))
    elif how == 4 and isinstance(value, list):
        parent[key] = chance.choice((value[::-1], value[:-1], value * 2, [value], dict(enumerate(value))))
    elif how == 5 and isinstance(value, str):
        parent[key] = chance.choice((value[:-1], value + "x", value.upper(), list(value)))
    else:
        parent[key] = copy.deepcopy(chance.choice(SCALARS))


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """A copy with one to three places changed, lost, moved or made up."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start = chance.randrange(len(changed) + 1)
        end = min(len(changed), start + chance.choice((1, 1, 2, 5, 20, 200, 5000)))
        how = chance.randrange(7)
        if how == 0:
            del changed[start:end]
        elif how == 1:
            changed[start:start] = changed[start:end]
        elif how == 2:
            changed[start:end] = bytes(chance.randrange(256) for _ in range(min(end - start, 8)))
        elif how == 3:
            changed[start:start] = chance.choice(TEXTS)
        elif how == 4:
            del changed[start:]
        elif how == 5:
            changed[start:end] = changed[start:end][::-1]
        else:
            _change_digit(changed, start, chance)
    return bytes(changed)


def _change_digit(content: bytearray, start: int, chance: random.Random) -> None:
    for place in range(start, len(content)):
        if content[place : place + 1].isdigit():
            content[place] = chance.choice(b"0123456789-.eE")
            return


def as_json(document: Any) -> bytes:
    """A document in JSON, or what would be if its numbers and texts were allowed there."""
    return json.dumps(document).encode()
