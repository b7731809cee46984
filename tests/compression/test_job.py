"""Everything is checked before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from hwprune.compression import Progress, compress
from hwprune.compression.job import prepare
from hwprune.errors import BudgetError, InputError, ModelError, TableError
from hwprune.latency import LatencyTable
from hwprune.training import Data

from . import tiny
from .fakes import config

QUIET = Progress(quiet=True)


def made(tmp_path: Path, given: dict[str, Any] | None = None, **changes: Any) -> Any:
    return prepare(config(tmp_path / "run", **{"macs": "0.5x", **changes}), QUIET, **(given or {}))


def test_a_job_is_ready(tmp_path: Path) -> None:
    job = made(tmp_path, batch=3, learning_rate=0.5, workers=0, seed=4)
    assert job.example.shape == (3, 1, 6, 6)
    assert torch.equal(job.example[0], tiny.data()[1][0][0])
    assert not job.model.training
    copy = job.fresh_model()
    with torch.no_grad():
        copy.fc.weight.zero_()
    assert job.model.fc.weight.abs().sum() > 0
    assert [batch.shape[0] for batch in job.validation_inputs(10)] == [3, 3, 3]
    settings = job.training(epochs=7, constant=True)
    assert (settings.epochs, settings.learning_rate, settings.schedule, settings.seed) == (7, 0.5, "constant", 4)
    assert job.training(epochs=7).schedule == "cosine"
    assert not (tmp_path / "run").exists()


def test_training_runs_in_the_precision_that_was_asked_for(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, result: seen.add(result.dtype) if module.training and isinstance(module, nn.Linear) else None
    )
    with handle:
        run = compress(config(tmp_path / "run", macs="0.5x", training_precision="bf16-mixed"))
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in load_file(run.path / "model.safetensors").values()} == {torch.float32, torch.int64}


def test_a_device_out_of_reach_needs_its_table(tmp_path: Path, tables: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="no table") as caught:
        made(tmp_path, target=str(tables["away target"]), macs=None, latency="0.5x")
    assert "--table" in caught.value.hint
    assert not made(tmp_path, target=str(tables["away target"])).measurable  # what is counted needs no table
    job = made(tmp_path, target=str(tables["away target"]), table=tables["away"])
    assert not job.measurable


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"threads": 2}, "threads 1"), ({"batch": 4}, "batch 1"), ({"precision": "int8"}, "int8|fp32")],
)
def test_a_table_of_another_target_is_refused(tmp_path: Path, tables: Any, changes: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        made(tmp_path, table=tables["here"], **changes)


def test_a_table_of_another_device_is_refused(tmp_path: Path, tables: dict[str, Path]) -> None:
    table = LatencyTable.load(tables["here"])
    foreign = replace(table, device={**table.device, "cpu": "Abacus 3000"})
    with pytest.raises(TableError, match="Abacus 3000"):
        made(tmp_path, {"table": foreign})


def test_nothing_to_cut_says_why(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="output"):
        made(tmp_path, {"model": nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten())})


def test_a_classifier_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    segments = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1))
    with pytest.raises(ModelError, match="output has shape") as caught:
        made(tmp_path, {"model": segments})
    assert "--task" in caught.value.hint
    few = nn.Sequential(nn.Conv2d(1, 8, 6), nn.Flatten(), nn.Linear(8, 2))
    train, validation = tiny.data()
    with pytest.raises(ModelError, match="2 outputs, the data 3 classes"):
        made(tmp_path, {"model": few, "data": Data(train=train, validation=validation, classes=3)})


def test_data_of_another_shape_is_refused(tmp_path: Path) -> None:
    images = TensorDataset(torch.zeros(8, 1, 6, 7), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(InputError, match=r"\(1, 6, 7\)"):
        made(tmp_path, {"data": Data(train=images, validation=images)})


def test_a_model_that_fails_in_forward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        made(tmp_path, {"model": nn.Sequential(nn.Conv2d(5, 8, 3), nn.Flatten())})
    with pytest.raises(ModelError, match="no such file"):
        made(tmp_path, model=str(tmp_path / "missing.py:build"))


@pytest.mark.parametrize("weights", ["missing.safetensors", "cut.safetensors"])
def test_weights_that_cannot_be_read_are_refused(tmp_path: Path, weights: str) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0{")
    with pytest.raises(ModelError, match=weights):
        made(tmp_path, weights=tmp_path / weights)
