"""Ten thousand tables with something wrong in them: an error of ours, or a table that still makes sense."""

from __future__ import annotations

import collections
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune.errors import HwpruneError, MissingLatencyError
from hwprune.latency import LatencyTable

from ..mutation import as_json, mutated_bytes, mutated_document
from .test_table import GOLDEN, LAYER

TABLES = 5000  # for each of the ways to be wrong


def wrong_document(right: Any, chance: random.Random) -> bytes:
    return as_json(mutated_document(right, chance))


def wrong_bytes(right: Any, chance: random.Random) -> bytes:
    return mutated_bytes(as_json(right), chance)


def outcome(path: Path) -> str:
    """What became of it; any other exception than ours ends the test."""
    try:
        table = LatencyTable.load(path)
        written = table.to_json()
    except HwpruneError as error:
        assert_sound(error)
        return type(error).__name__
    path.write_text(written)
    assert LatencyTable.load(path).to_json() == written
    assert_sensible(table)
    return "accepted"


def assert_sound(error: HwpruneError) -> None:
    """It says what is wrong and what to do, and does nothing to the terminal."""
    assert error.message
    assert error.hint
    assert "\x1b" not in error.message + error.hint


def assert_sensible(table: LatencyTable) -> None:
    """Whatever is looked up is a time."""
    for entry in table.entries:
        asked = tuple(np.array([axis[0], (axis[0] + axis[-1]) // 2, axis[-1]]) for axis in entry.sizes)
        found, _ = entry.at(asked, table.channel_step)
        assert found.shape == tuple(map(len, asked))
        assert np.isfinite(found).all()
        assert (found > 0).all()
    for sizes in ((16, 16), (17, 48), (64, 100), (1, 1)):
        try:
            latency_ms = table.lookup(LAYER, sizes).latency_ms
        except MissingLatencyError as error:
            assert_sound(error)
        else:
            assert 0 < latency_ms < float("inf")
    assert 0 < table.scale < float("inf")
    assert 0 <= table.overhead_ms < float("inf")
    if table.held_out:
        assert np.isfinite(table.held_out.errors).all()


@pytest.mark.parametrize("wrong", [wrong_document, wrong_bytes])
def test_mutated_tables(tmp_path: Path, wrong: Callable[[Any, random.Random], bytes]) -> None:
    right, chance, path = json.loads(GOLDEN.read_text()), random.Random(wrong.__name__), tmp_path / "table.json"
    path.write_bytes(as_json(right))
    assert outcome(path) == "accepted"
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(TABLES):
        path.write_bytes(wrong(right, chance))
        seen[outcome(path)] += 1
    assert seen["TableError"] > TABLES / 2, seen
    assert seen["accepted"] > 0, seen
