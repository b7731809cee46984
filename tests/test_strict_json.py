from __future__ import annotations

import pytest

from hwprune.errors import InputError
from hwprune.strict_json import MAX_DEPTH, parse_json


def parse(text: str) -> object:
    return parse_json(text, what="thing", hint="give another")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_has_an_end(opening: str, closing: str) -> None:
    inner = "1" if closing == "}" else ""
    assert parse(opening * (MAX_DEPTH - 1) + inner + closing * (MAX_DEPTH - 1))
    for depth in (MAX_DEPTH + 1, 900, 3000, 200_000):
        with pytest.raises(InputError, match="the thing is nested too deeply"):
            parse(opening * depth + inner + closing * depth)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', '{"a": 1, "a": 1}', "", "[1", "9" * 5000])
def test_what_json_readers_let_through(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)
