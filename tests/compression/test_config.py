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


def test_a_budget_is_needed() -> None:
    with pytest.raises(BudgetError) as caught:
        read_config(without("latency"))
    assert caught.value.message == "0 budgets were given"
    assert "--latency 0.5x" in caught.value.hint


def test_of_several_budgets_the_first_is_used_up() -> None:
    """Latency before memory, size and operations, however they were given."""
    config = read_config(without("latency", size="1MB", macs="1M", memory="2MB"))
    assert [budget.metric for budget in config.budgets] == ["memory_bytes", "size_bytes", "macs"]
    assert config.budget == config.budgets[0]
    assert read_config(without(size="1MB")).budget.metric == "latency_ms"
    with pytest.raises(InputError, match="method halp-oneshot takes one budget, and 2 were given"):
        read_config(without(size="1MB", method="halp-oneshot"))


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
