"""Plans on disk."""

import json

import pytest

from hwprune.budget import Plan
from hwprune.errors import InputError

PLAN = Plan(
    widths={"a": 2},
    kept={"a": (0, 3)},
    cuts={"conv.weight": {0: [0, 3], 1: [1]}},
    objective=1.5,
    used={"latency_ms": 0.25},
    budgets={"latency_ms": 0.5},
    solver="halp",
    solve_s=0.125,
)


def test_round_trip(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    assert Plan.load(path) == PLAN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        PLAN.to_json()[:-20],
        json.dumps({**json.loads(PLAN.to_json()), "schema_version": 2}),
        json.dumps({**json.loads(PLAN.to_json()), "surprise": 1}),
        json.dumps({**json.loads(PLAN.to_json()), "kept": 3}),
        json.dumps({**json.loads(PLAN.to_json()), "cuts": {"conv.weight": {"first": [0]}}}),
        "[" * 100_000,
    ],
)
def test_malformed(text, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Plan.load(path)
    assert caught.value.hint


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"plan\.json"):
        Plan.load(tmp_path / "plan.json")
