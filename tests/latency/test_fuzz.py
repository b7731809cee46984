"""Tables that were tampered with, by chance: an error of ours each time, or a table that says just what the file says."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from hwprune.errors import TableError
from hwprune.latency import LatencyTable
from hwprune.targets import Target

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
SCHEMA = json.loads((ROOT / "latency_tables" / "schema" / "latency-table-2.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DEFAULTS = Target(name="any").to_dict()
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, 10**400, 2**31, "", "conv", "1.0", "\ud800", "a\nb", [], [1],
    [[]], {}, {"name": "x"}, "in context", "channels", ["relu", "relu"], [None],
]  # fmt: skip
ROUNDS = 1500


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def mutated(rng: random.Random) -> Any:
    """The golden table after one to three changes."""
    document = copy.deepcopy(GOLDEN)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice([path for path in places(document) if path])
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        _change(holder, path[-1], rng)
    return document


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    kind = rng.choice(("odd", "odd", "drop", "double", "scale", "rename", "swap"))
    value = holder[key]
    if kind == "drop":
        del holder[key]
    elif kind == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif kind == "scale" and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = rng.choice((value * -1, value * 1000, value / 3, float(value), value + 1))
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice((key.upper(), f"{key}s", f"_{key}", key[:-1]))] = holder.pop(key)
    elif kind == "swap" and isinstance(holder, (dict, list)) and len(holder) > 1:
        other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = copy.deepcopy(rng.choice(ODD))


def same(read: Any, written: Any) -> bool:
    """Equal, numbers as far as they are written out."""
    if isinstance(read, bool) or isinstance(written, bool):
        return read is written
    if isinstance(read, (int, float)) and isinstance(written, (int, float)):
        return read == pytest.approx(written, rel=1e-5)
    if isinstance(read, dict) and isinstance(written, dict):
        return read.keys() == written.keys() and all(same(read[key], written[key]) for key in read)
    if isinstance(read, list) and isinstance(written, list):
        return len(read) == len(written) and all(map(same, read, written))
    return bool(read == written)


def check(text: str, path: Path) -> bool:
    """Whether the table is accepted; then it must be what the file says."""
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        table = LatencyTable.load(path)
    except TableError as error:
        assert "\n" not in error.message
        assert error.hint
        return False
    document = json.loads(text)
    VALIDATOR.validate(document)
    document["target"] = {**DEFAULTS, **document["target"]}
    document["fusion"] = sorted(document["fusion"], key=json.dumps)
    again = json.loads(table.to_json())
    again["fusion"] = sorted(again["fusion"], key=json.dumps)
    assert same(again, document)
    for entry in table.entries:
        values, _ = entry.at(tuple(np.array(sizes, dtype=np.int64) for sizes in entry.sizes), table.channel_step)
        assert (values > 0).all()
        assert np.isfinite(values).all()
    return True


def test_changed_documents(tmp_path: Path) -> None:
    rng = random.Random(0)
    accepted = sum(check(json.dumps(mutated(rng)), tmp_path / "t.json") for _ in range(ROUNDS))
    assert ROUNDS / 50 < accepted < ROUNDS / 2  # both are put to the test


def test_changed_texts(tmp_path: Path) -> None:
    """Bytes that were lost, doubled or changed on the way."""
    rng, whole = random.Random(1), json.dumps(GOLDEN)
    refused = 0
    for _ in range(ROUNDS // 2):
        start = rng.randrange(len(whole))
        end = min(len(whole), start + rng.choice((1, 1, 2, 20, 1000)))
        middle = rng.choice(("", whole[start:end] * 2, rng.choice('{}[]",:0-.e1x '), "\x00"))
        refused += not check(whole[:start] + middle + whole[end:], tmp_path / "t.json")
    assert refused > ROUNDS / 4
