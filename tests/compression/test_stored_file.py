"""A budget of bytes that zeros meet: the file itself is inside, and as full as it can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import pytest

from hwprune.compression import compress, sparse
from hwprune.compression.stored_file import most_inside
from hwprune.deploy import unpack
from hwprune.errors import BudgetError
from hwprune.report.summary import verdict

from .fakes import config


@pytest.mark.parametrize(
    ("way", "size", "storage"),
    [
        ("gmp", "8kB", "gap8-int8-xz"),
        ("srigl", "15kB", "gap8"),
        ("recoverable", "20kB", "gap8-fp16"),
        ("set", "0.6x", "onnx"),
    ],
)
def test_the_file_is_inside_its_budget(tmp_path: Path, device: Any, way: str, size: str, storage: str) -> None:
    with device():
        run = compress(config(tmp_path / "run", sparsify=way, size=size, storage=storage, epochs=4))
    result, found = run.result, run.result["sparse"]
    limit = float(size[:-1]) * result["baseline_size_bytes"] if size.endswith("x") else 1000 * float(size[:-2])
    file = run.bundle / ("model.onnx" if storage == "onnx" else "model.packed")
    assert file.stat().st_size == found["stored_bytes"] == result["measured"]
    assert 0.97 * limit <= file.stat().st_size <= limit == pytest.approx(result["budget"])
    assert (run.budget_met, result["budget_metric"], found["remark"]) == (True, "size_bytes", None)
    assert result["size_bytes"] == (run.path / "model.onnx").stat().st_size
    if storage != "onnx":
        assert unpack(file.read_bytes()) == (run.path / "model.onnx").read_bytes()
        graph = onnx.load(run.path / "model.onnx").graph
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
        zeros = sum(int((array == 0).sum()) for array in arrays if array.ndim > 1)
        assert zeros == found["zeros"] or (zeros > found["zeros"] and "int8" in storage)  # small ones are rounded to it
        rows = [(array.reshape(len(array), -1) != 0).sum(1) for array in arrays if array.ndim == 4]
        even = [len(set(row[row > 0])) == 1 for row in rows]
        assert all(even) or way != "srigl"
        assert not all(even) or way == "srigl"


def test_channels_are_cut_for_one_budget_and_zeros_meet_another(tmp_path: Path, device: Any, tables: Any) -> None:
    """Means of filters take time in the engine, which the closed loop sees."""
    settings = {"latency": "0.6x", "table": tables["here"], "size": "0.2x", "sparsify": "recoverable", "epochs": 2}
    with device():
        run = compress(config(tmp_path / "run", **settings))
    result = run.result
    (other,) = result["other_budgets"]
    assert (result["budget_metric"], other["metric"], run.budget_met) == ("latency_ms", "size_bytes", True)
    assert 0.95 <= result["measured"] / result["budget"] <= 1
    assert result["attempts"] == 1
    assert other["measured"] == (run.bundle / "model.packed").stat().st_size <= other["limit"]
    assert verdict(result).count(": met") == 2


def test_a_budget_that_the_dense_network_is_inside_of(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", sparsify="iee", size="0.9x", storage="dense-int8", epochs=1))
    assert (run.result["sparse"]["zeros"], run.budget_met) == (0, True)
    assert "of its budget" in run.result["sparse"]["remark"]


def test_a_file_that_no_zeros_make_small_enough_is_refused(tmp_path: Path, device: Any) -> None:
    with device(), pytest.raises(BudgetError, match="cannot be brought to 1kB") as caught:
        compress(config(tmp_path / "run", sparsify="gmp", size="1kB", epochs=1))
    assert "--storage" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_a_file_that_new_statistics_make_too_large_is_fitted_again(tmp_path: Path, device: Any) -> None:
    """What is packed of recalibrated networks counts as two hundred bytes more than it is."""
    new: list[Any] = []
    packed: list[int] = []
    honest, recalibrate = sparse.stored_bytes, sparse.recalibrate_batchnorm

    def recalibrated(model: Any, *arguments: Any, **named: Any) -> int:
        new.append(model)
        return recalibrate(model, *arguments, **named)

    def heavier(job: Any, model: Any) -> int:
        found = honest(job, model)
        if any(model is one for one in new):
            found += 200
            packed.append(found)
        return found

    with (
        device(),
        mock.patch.object(sparse, "stored_bytes", heavier),
        mock.patch.object(sparse, "recalibrate_batchnorm", recalibrated),
    ):
        run = compress(config(tmp_path / "run", sparsify="gmp", size="0.2x", epochs=4))
    limit = run.result["budget"]
    assert packed[-1] == run.result["sparse"]["stored_bytes"] + 200 <= limit
    assert len(packed) > 1
    assert all(size > limit for size in packed[:-1])


@pytest.mark.parametrize(
    "curve",
    [
        lambda count: 500 + 5 * count,
        lambda count: 500 + min(5 * count, 40_000),  # dense from some density on
        lambda count: 500 + int(30 * count**0.8),
        lambda count: 500 + 5 * count + 37 * (count % 7),  # compressed: not quite monotone
    ],
    ids=["line", "flat at the end", "bent", "rough"],
)
@pytest.mark.parametrize("limit", [501, 700, 12_345, 40_000])
def test_as_many_weights_as_fit(curve: Callable[[int], int], limit: int) -> None:
    asked: list[int] = []
    found = most_inside(lambda count: asked.append(count) or curve(count), limit, 10_000)
    assert found in asked
    assert curve(found) <= limit
    assert curve(found) >= 0.995 * limit or curve(found + 1) > limit
    assert len(asked) <= 22


def test_what_fits_as_it_is_stays_as_it_is() -> None:
    assert most_inside(lambda count: 100 + count, 200, 100) == 100
    with pytest.raises(BudgetError):
        most_inside(lambda count: 100 + count, 99, 100)
