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


def run(count: int, **asked: Any) -> list[Ended]:
    return together(count, WORKER, json.dumps(asked))


def trained(count: int, **asked: Any) -> list[dict[str, Any]]:
    ended = run(count, **asked)
    assert [one.status for one in ended] == [0] * count, ended
    return [json.loads(one.out) for one in ended]


@pytest.mark.parametrize(
    "asked",
    [
        {"batch_size": 8, "grad_clip": 0.3},
        {"batch_size": 7, "optimizer": "adamw", "learning_rate": 0.01},  # shares of 4 and 3
        {"batch_size": 64},  # one batch of all 26 samples
    ],
)
def test_two_processes_train_what_one_does(asked: dict[str, Any]) -> None:
    first, second = trained(2, **asked)
    alone = main(dict(asked))
    assert first["weights"] == second["weights"]
    np.testing.assert_allclose(first["values"], alone["values"], rtol=1e-9, atol=1e-12)
    assert first["idle"] == alone["idle"]
    for record, expected in zip(first["history"], alone["history"], strict=True):
        assert record == pytest.approx(expected, rel=1e-9)
    assert first["history"] == second["history"]
    assert len({record["loss"] for record in first["history"]}) == 3


def test_with_batch_norm_all_end_with_the_same(tmp_path: Path) -> None:
    found = trained(3, norm=True, batch_size=8)
    assert len({one["weights"] for one in found}) == 1
    assert {one["used"] for one in found} == {3}
    assert all(one["history"] == found[0]["history"] for one in found)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"samples": [26, 25]}, "training sets of ranks [1] differ from those of rank 0"),
        ({"batch_size": 1}, "batches of 1 samples cannot be shared by 2 processes"),
        ({"learning_rate": 1e200}, "the training diverged"),
        ({"failing": 0}, "made up"),
        ({"failing": 1}, "made up"),
    ],
)
def test_an_error_ends_all(asked: dict[str, Any], message: str) -> None:
    ended = run(2, **asked)
    assert sorted(one.status for one in ended) == [3, 4]
    assert all(message in json.loads(one.out)[1] for one in ended)
    if "failing" in asked:
        assert ended[asked["failing"]].status == 3
