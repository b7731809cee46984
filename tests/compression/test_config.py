"""Settings: one record for flags, files and Python, and errors that name every fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hwprune.budget import Budget
from hwprune.compression import CompressConfig, RunFolder, read_config, resumed_config
from hwprune.errors import BudgetError, InputError

GIVEN: dict[str, Any] = {
    "model": "zoo:digits_resnet",
    "data": "digits",
    "input_shape": (1, 1, 32, 32),
    "output": "run",
    "latency": "0.5x",
}


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GIVEN, **changes}.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("latency", "0.5x", Budget("latency_ms", 0.5, relative=True)),
        ("latency", "800us", Budget("latency_ms", 0.8, relative=False)),
        ("size", "2MB", Budget("size_bytes", 2e6, relative=False)),
        ("memory", "256KiB", Budget("memory_bytes", 262_144, relative=False)),
        ("macs", "100M", Budget("macs", 1e8, relative=False)),
    ],
)
def test_the_one_budget(name: str, text: str, expected: Budget) -> None:
    found = read_config({**without("latency"), name: text}).budget
    assert (found.metric, found.relative) == (expected.metric, expected.relative)
    assert found.value == pytest.approx(expected.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (without("latency"), "0 budgets were given (none)"),
        (without(size="1MB"), "2 budgets were given (latency, size)"),
        (without("latency", memory="1MB", macs="1M"), "2 budgets were given (memory, macs)"),
    ],
)
def test_exactly_one_budget(values: dict[str, Any], says: str) -> None:
    with pytest.raises(BudgetError) as caught:
        read_config(values)
    assert caught.value.message == says
    assert "--latency 0.5x" in caught.value.hint


@pytest.mark.parametrize("budget", ["0x", "-1ms", "101x", "nanx", "8", "fast", "2MB", ""])
def test_a_malformed_budget_is_refused_before_anything_is_loaded(budget: str) -> None:
    with pytest.raises(BudgetError):
        read_config(without(latency=budget))


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        read_config(without("data", epochs=-1, learning_rte=0.1, optimizer="lion", distill=float("nan")))
    for words in ("data is missing", "epochs", "-1", "learning_rte", "optimizer", "'lion'", "distill"):
        assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"criterion": "magic"}, "magic"),
        ({"input_shape": (1, 3, 0, 8)}, "size below 1"),
        ({"input_shape": (1,)}, "input_shape"),
        ({"prune_steps": 0}, "prune_steps"),
        ({"batch": 0}, "batch"),
        ({"threads": 1.5}, "threads"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"method": "magic"}, "joint-oneshot"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_config(without(**changes))


def test_what_is_resolved_reads_back_the_same(tmp_path: Path) -> None:
    config = read_config(without(weights="a/b.safetensors", table=Path("t.json"), threads=2, seed=9))
    document = json.loads(json.dumps(config.resolved()))
    assert read_config(document) == config
    assert set(document) == set(CompressConfig.model_fields)
    RunFolder.create(tmp_path / "run", config.resolved())
    (tmp_path / "run").rename(tmp_path / "moved")
    again = resumed_config(tmp_path / "moved")
    assert again == config.model_copy(update={"output": tmp_path / "moved"})


def test_settings_do_not_change_under_way() -> None:
    config = read_config(GIVEN)
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 3
