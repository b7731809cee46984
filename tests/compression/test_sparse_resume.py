"""Sparse training that is killed within epochs and resumed gives the same masks and weights, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwprune.compression import RunFolder

from ..together import together
from .killing import killed_and_resumed

STOPS = [2, 6, 5, 7]  # steps of one life each, in epochs of four: from 0 twice, from the second epoch, from the third


@pytest.mark.parametrize(
    "changes",
    [
        {"sparsify": "granet", "sparsity": "0.8"},
        {"sparsify": "iee", "sparsity": "0.8"},  # explores where the second epoch ends
        {"sparsify": "srigl", "size": "15kB"},
        {"sparsify": "bidirectional", "sparsity": "0.5"},
        {"sparsify": "recoverable", "size": "20kB", "storage": "gap8-xz"},
    ],
    ids=lambda changes: changes["sparsify"],
)
def test_killed_within_epochs_and_resumed(tmp_path: Path, device: Any, exports: Path, changes: dict[str, Any]) -> None:
    settings = {"epochs": 4, **changes}
    whole, run = killed_and_resumed(tmp_path, device, exports, settings, STOPS)
    documents = [RunFolder.load(path).document for path in (run, whole)]
    assert documents[0]["mask_updates"] == documents[1]["mask_updates"]
    packed = [(path / "bundle/model.packed").read_bytes() for path in (run, whole)]
    assert packed[0] == packed[1]
    assert [event["epoch"] for event in RunFolder.load(run).history()] == [1, 2, 3, 4]


@pytest.mark.parametrize("way", ["granet", "bidirectional"])
def test_two_processes_agree_on_masks(tmp_path: Path, exports: Path, way: str) -> None:
    """Processes whose masks or weights differ end with an error."""
    settings = {"sparsify": way, "size": "0.3x", "epochs": 4, "distill": 0.0}
    worker = Path(__file__).parent / "sparse_process.py"
    ended = together(2, worker, tmp_path / "run", exports, json.dumps(settings))
    assert [process.status for process in ended] == [0, 0], ended[0].err + ended[1].err
    result = RunFolder.load(tmp_path / "run").document["result"]
    assert result["budget_met"]
    assert result["sparse"]["zeros"] > 0.5 * result["sparse"]["weights"]
