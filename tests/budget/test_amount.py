"""Budgets as users type them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.budget import Budget, parse_budget, spell
from hwprune.errors import BudgetError


@pytest.mark.parametrize(
    ("metric", "text", "value"),
    [
        ("latency_ms", "8ms", 8.0),
        ("latency_ms", " 8 ms ", 8.0),
        ("latency_ms", "800us", 0.8),
        ("latency_ms", "800µs", 0.8),
        ("latency_ms", "1.2s", 1200.0),
        ("latency_ms", ".5ms", 0.5),
        ("latency_ms", "1e2us", 0.1),
        ("size_bytes", "2MB", 2_000_000.0),
        ("size_bytes", "1.5MiB", 1_572_864.0),
        ("size_bytes", "200kB", 200_000.0),
        ("size_bytes", "200KB", 200_000.0),
        ("memory_bytes", "256KiB", 262_144.0),
        ("memory_bytes", "2MB", 2_000_000.0),
        ("macs", "100M", 1e8),
        ("macs", "1.2G", 1.2e9),
        ("macs", "123456", 123456.0),
    ],
)
def test_absolute(metric, text, value):
    budget = parse_budget(metric, text)
    assert not budget.relative
    assert budget.value == pytest.approx(value, rel=1e-12)
    assert budget.resolve(value) == budget.value


@pytest.mark.parametrize("metric", ["latency_ms", "size_bytes", "memory_bytes", "macs"])
def test_relative(metric):
    assert parse_budget(metric, "0.5x") == Budget(metric, 0.5, relative=True)
    assert parse_budget(metric, "0.5x").resolve(12.0) == 6.0
    assert parse_budget(metric, "100x").resolve(1.0) == 100.0


@pytest.mark.parametrize(
    ("metric", "text", "words"),
    [
        ("latency_ms", "0ms", "more than zero"),
        ("latency_ms", "0x", "more than zero"),
        ("latency_ms", "-3ms", "more than zero"),
        ("latency_ms", "1e999ms", "finite"),
        ("latency_ms", "101x", "over 100 times"),
        ("latency_ms", "0.5", "no unit"),
        ("latency_ms", "8MB", "'MB'"),
        ("latency_ms", "8MS", "'MS'"),
        ("latency_ms", "nan", "not a number"),
        ("latency_ms", "infms", "not a number"),
        ("latency_ms", "half", "not a number"),
        ("latency_ms", "", "not a number"),
        ("latency_ms", "1,5ms", "not a number"),
        ("latency_ms", "8ms9", "not a number"),
        ("latency_ms", "50%", "keep or to remove"),
        ("size_bytes", "2Mb", "'Mb'"),
        ("size_bytes", "2", "no unit"),
        ("size_bytes", "8ms", "'ms'"),
        ("memory_bytes", "8ms", "'ms'"),
        ("memory_bytes", "2", "no unit"),
        ("memory_bytes", "-1MB", "more than zero"),
        ("macs", "0.5", "less than one"),
        ("macs", "1MB", "'MB'"),
    ],
)
def test_refused(metric, text, words):
    with pytest.raises(BudgetError) as caught:
        parse_budget(metric, text)
    assert words in caught.value.message
    assert "0.5x" in caught.value.hint


def test_absolute_budget_far_over_the_baseline_is_a_wrong_unit():
    with pytest.raises(BudgetError, match="over 100 times today's 2 ms"):
        parse_budget("latency_ms", "8s").resolve(2.0)


def test_unknown_metric():
    with pytest.raises(BudgetError, match="'watts'"):
        Budget("watts", 1.0)


@given(st.one_of(st.text(max_size=12), st.from_regex(r"[0-9.eE+-]{1,6} ?(ms|us|s|x|MB|%)?", fullmatch=True)))
def test_any_text_is_a_positive_budget_or_a_budget_error(text):
    with contextlib.suppress(BudgetError):
        budget = parse_budget("latency_ms", text)
        assert 0 < budget.value < float("inf")


@pytest.mark.parametrize(
    ("metric", "value"), [("latency_ms", 2.5), ("size_bytes", 200_100.0), ("memory_bytes", 2e6), ("macs", 12.5e6)]
)
def test_what_is_spelled_can_be_read(metric, value) -> None:
    assert parse_budget(metric, spell(metric, value)).value == pytest.approx(value)
