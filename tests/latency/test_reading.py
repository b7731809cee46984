"""Every malformed table is refused with its own sentence; every committed one is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hwprune.errors import TableError
from hwprune.latency import LatencyTable
from hwprune.latency.reading import MAX_BYTES

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "latency_tables"
GOLDEN = Path(__file__).with_name("golden.json")
BAD = ROOT / "tests" / "data" / "bad_tables"
EXPECTED: dict[str, str] = json.loads((BAD / "expected_messages.json").read_text())
SCHEMA = json.loads((TABLES / "schema" / "latency-table-2.schema.json").read_text())
COMMITTED = sorted(path for path in TABLES.rglob("*.json") if path.parent.name != "schema")
# Malformed in a way that a schema cannot say, or that a plain JSON reader does not even see.
BEYOND_THE_SCHEMA = {
    "duplicate_key.json",
    "duplicate_entry.json",
    "nan.json",
    "infinity.json",
    "too_large.json",
    "too_large_in_protocol.json",
    "too_large_in_device.json",
    "step_as_fraction.json",
    "version_as_fraction.json",
    "descending_sizes.json",
    "missing_row.json",
    "ragged_row.json",
    "flat_latencies.json",
    "nested_latencies.json",
    "number_for_a_grid.json",
    "swapped_axes.json",
    "two_axes_for_an_operator.json",
    "held_out_uneven.json",
    "fusion_answered_twice.json",
}
NOT_JSON = {"not_json.json", "empty.json", "truncated.json", "deeply_nested.json"}


def schema_accepts(document: Any) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


def test_every_bad_table_has_an_expected_message() -> None:
    assert {path.name for path in BAD.glob("*.json")} == {*EXPECTED, "expected_messages.json"}
    assert len(EXPECTED) > 40


@pytest.mark.parametrize("name", EXPECTED)
def test_bad_tables(name: str) -> None:
    with pytest.raises(TableError) as caught:
        LatencyTable.load(BAD / name)
    assert caught.value.message.startswith(f"latency table {BAD / name}: {EXPECTED[name]}")
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - NOT_JSON))
def test_the_schema_agrees_with_the_reader_where_it_can(name: str) -> None:
    assert schema_accepts(json.loads((BAD / name).read_text())) == (name in BEYOND_THE_SCHEMA)


def test_a_typo_gets_the_nearest_name() -> None:
    with pytest.raises(TableError) as caught:
        LatencyTable.load(BAD / "unknown_key.json")
    assert "did you mean 'channel_step'?" in caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"cannot read the latency table .*absent\.json: No such file"):
        LatencyTable.load(tmp_path / "absent.json")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot read the latency table"):
        LatencyTable.load(tmp_path)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(TableError, match="it is not UTF-8 text"):
        LatencyTable.load(tmp_path / "t.json")


def test_a_huge_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(TableError, match=f"it has {MAX_BYTES + 1} bytes; at most {MAX_BYTES} are read"):
        LatencyTable.load(path)


def test_the_schema_is_a_schema_and_accepts_the_golden_table() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(GOLDEN.read_text()))


def test_there_is_a_committed_table() -> None:
    """Otherwise the tests below would pass by having nothing to look at."""
    assert COMMITTED, "no table under latency_tables/: run hwprune profile on an idle machine and commit its table"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(TABLES)))
def test_committed_tables(path: Path) -> None:
    table = LatencyTable.load(path)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))
    assert table.entries
    threads = f"-{table.target.threads}threads" if table.target.threads > 1 else ""
    assert path.name == f"{table.target.runtime}-{table.target.precision}{threads}.json"
    assert TABLES in path.parents[1:3], "a table lies in latency_tables/<device>/ or latency_tables/<device>/<network>/"
    assert table.device["runtime"] == table.target.runtime
    assert table.scale_source["method"] != "none", "profile it with its dense network measured end to end"
    assert 0.5 < table.scale < 2.0, "a table whose layers do not add up to their network is no guide"
    assert table.to_json() == path.read_text(encoding="utf-8"), "it was edited by hand"
