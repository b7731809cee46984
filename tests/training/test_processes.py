"""Several processes train what one trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..together import Ended, together
from .together_worker import main

WORKER = Path(__file__).parent / "together_worker.py"
SETTINGS = (
    {"batch_size": 8, "grad_clip": 0.3},
    {"batch_size": 7, "optimizer": "adamw", "learning_rate": 0.01},  # shares of 4 and 3
    {"batch_size": 64},  # one batch of all 26 samples
)
WITH_NORM = {"norm": True, "batch_size": 8}


def run(*asked: Any) -> list[Ended]:
    return together(2, WORKER, json.dumps(asked))


@pytest.fixture(scope="module")
def ranks() -> list[list[dict[str, Any]]]:
    """Of every process, what came of all settings, one after the other."""
    ended = run(*SETTINGS, WITH_NORM)
    assert [one.status for one in ended] == [0, 0], ended
    return [json.loads(one.out) for one in ended]


@pytest.mark.parametrize("case", range(len(SETTINGS)))
def test_two_processes_train_what_one_does(case: int, ranks: list[list[dict[str, Any]]]) -> None:
    first, second = (found[case] for found in ranks)
    alone = main(SETTINGS[case])
    assert first == second
    np.testing.assert_allclose(first["values"], alone["values"], rtol=1e-9, atol=1e-12)
    assert first["idle"] == alone["idle"]
    for record, expected in zip(first["history"], alone["history"], strict=True):
        assert record == pytest.approx(expected, rel=1e-9)
    assert len({record["loss"] for record in first["history"]}) == 3


def test_with_batch_norm_all_end_with_the_same(ranks: list[list[dict[str, Any]]]) -> None:
    first, second = (found[-1] for found in ranks)
    assert first == second  # running statistics as well
    assert first["used"] == main(WITH_NORM)["used"] == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"samples": [26, 25]}, "training sets of ranks [1] differ from those of rank 0"),
        ({"batch_size": 1}, "batches of 1 samples cannot be shared by 2 processes"),
        ({"failing": 1}, "made up"),
    ],
)
def test_an_error_ends_all(asked: dict[str, Any], message: str) -> None:
    ended = run(asked)
    assert sorted(one.status for one in ended) == [3, 4]
    assert all(message in json.loads(one.out)[1] for one in ended)
    assert "failing" not in asked or ended[1].status == 3
