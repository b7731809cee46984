"""Several budgets: one run each, the table measured once, a page; killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hwprune.compression import Run, Sweep, sweep
from hwprune.errors import InputError
from hwprune.report import sweep_page

from .fakes import config


def settings(output: Path, **changes: Any) -> dict[str, Any]:
    return {**config(output, macs="0.5x", epochs=0).model_dump(), "macs": None, **changes}


def test_one_run_for_each_value(tmp_path: Path, device: Any) -> None:
    found = Sweep.of(settings(tmp_path / "all", macs="0.8x, 0.5x"))
    assert found is not None
    with device():
        runs = found.run()
    assert [run.path.name for run in runs] == ["0.8x", "0.5x"]
    assert [run.budget_met for run in runs] == [True, True]
    used = [run.result["macs"] / run.result["baseline_macs"] for run in runs]
    assert 0.5 < used[0] <= 0.8
    assert 0.4 < used[1] <= 0.5
    page = sweep_page([run.document for run in runs], [run.path for run in runs])
    assert page.count('href="0.8x/report.html"') == page.count('href="0.5x/report.html"') == 1
    assert page.count("<svg") == 2
    assert "saliency" in page


def test_the_table_is_measured_once(tmp_path: Path, device: Any) -> None:
    found = Sweep.of(settings(tmp_path / "all", latency="0.8x,0.6x"))
    assert found is not None
    with device():
        first, second = found.run()
    assert first.document["stages"]["latency_table"]["source"] != second.document["stages"]["latency_table"]["source"]
    assert second.document["stages"]["latency_table"]["source"] == str(first.path / "table.json")
    assert (first.path / "table.json").read_bytes() == (second.path / "table.json").read_bytes()


def test_it_goes_on_where_it_was_killed(tmp_path: Path, device: Any) -> None:
    found = Sweep.of(settings(tmp_path / "all", macs="0.8x,0.5x"))
    assert found is not None
    real, made = sweep.compress, []

    def killed(*given: Any, **named: Any) -> Run:
        if made:
            raise KeyboardInterrupt
        made.append(real(*given, **named))
        return made[0]

    with device(), mock.patch.object(sweep, "compress", killed), pytest.raises(KeyboardInterrupt):
        found.run()
    again = Sweep.load(tmp_path / "all")
    assert again is not None
    assert (again.budget, again.values) == ("macs", ("0.8x", "0.5x"))
    before = (tmp_path / "all/0.8x/run.json").read_bytes()
    with device():
        runs = again.run(resume=True)
    assert [run.budget_met for run in runs] == [True, True]
    assert (tmp_path / "all/0.8x/run.json").read_bytes() == before
    with pytest.raises(InputError, match="is not empty"):
        found.run()


def test_one_value_is_no_sweep(tmp_path: Path) -> None:
    assert Sweep.of(settings(tmp_path, macs="0.5x")) is None
    assert Sweep.load(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"macs": "0.5x,0.5x"}, "does not name several"),
        ({"macs": "0.5x,"}, "not a budget"),
        ({"macs": "0.5x,fast"}, "not a budget"),
        ({"macs": "0.5x,0.4x", "size": "1MB,2MB"}, "size and macs have several values"),
    ],
)
def test_nonsense(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Sweep.of(settings(tmp_path / "all", **changes))
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "config": 3}'])
def test_a_damaged_sweep(tmp_path: Path, damage: str) -> None:
    (tmp_path / "sweep.json").write_text(damage)
    with pytest.raises(InputError, match=r"sweep\.json cannot be read"):
        Sweep.load(tmp_path)


def test_a_sweep_of_other_settings(tmp_path: Path) -> None:
    document = {"schema_version": 1, "config": {}, "budget": "macs", "values": ["0.5x", "0.4x"]}
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="missing"):
        Sweep.load(tmp_path)
