"""Single weights made zero by ``compress``: every rule, exact counts in the exported file, with and without cuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import hwprune
from hwprune import device_runner
from hwprune.compression import RunFolder, compress, read_config
from hwprune.compression.sparse_ways import rule_for
from hwprune.errors import InputError, ModelError
from hwprune.regrow import rules
from hwprune.report import render_text

from . import fakes, tiny
from .fakes import config

WEIGHTS = sum(value.numel() for value in tiny.build().parameters() if value.ndim > 1)
WAYS = (*rules(), "bidirectional", "recoverable")


def amount(way: str) -> dict[str, str]:
    return {"pattern": "1:4"} if way == "nm" else {"sparsity": "80%"}


def weights_in(file: Path) -> list[np.ndarray[Any, Any]]:
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
    return [array for array in arrays if array.ndim > 1]


def zeros_in(file: Path) -> int:
    return sum(int((array == 0).sum()) for array in weights_in(file))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_leaves_as_many_zeros_as_it_says(tmp_path: Path, device: Any, way: str) -> None:
    with device():
        run = compress(config(tmp_path / "run", sparsify=way, epochs=4, **amount(way)))
    result = run.result
    sparse = result["sparse"]
    assert zeros_in(run.path / "model.onnx") == sparse["zeros"]
    assert not any((np.signbit(array) & (array == 0)).any() for array in weights_in(run.path / "model.onnx"))
    least = (WEIGHTS - 24 * 9) * 3 / 4 if way == "nm" else WEIGHTS - int(WEIGHTS * 0.2)
    # a weight that was grown may be zero still, and of constant fan-in something may be left over
    assert least <= sparse["zeros"] <= least * 1.03
    assert sparse["zeros"] == least or way in ("granet", "srigl", "bidirectional")
    assert (run.budget_met, result["budget"], result["other_budgets"], sparse["met"]) == (True, None, [], True)
    assert result["macs"] == result["baseline_macs"]
    assert all(group["kept"] == group["channels"] for group in run.document["groups"])
    assert result["accuracy"] > result["baseline_accuracy"]
    assert {"accuracy_before_recovery", "accuracy_after_recovery"} <= sparse.keys() or way != "recoverable"
    said = render_text(run.document)
    assert ("pattern 1:4: met" if way == "nm" else "sparsity 80%: met, 8") in said
    assert "not a dense runtime faster" in said
    # what was trained is rebuilt by what loads every run
    model = hwprune.load(run.path, tiny.build()).eval()
    images = torch.randn(1, 1, 6, 6)
    engine = device_runner.open_engine(str(run.path / "model.onnx"))
    (found,) = engine.run({engine.inputs[0]["name"]: images.numpy()})
    np.testing.assert_allclose(found, model(images).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_to_stay_dense_has_no_zeros(tmp_path: Path, device: Any, way: str) -> None:
    with device():
        run = compress(config(tmp_path / "run", sparsify=way, stay_dense=("f?",), epochs=4, **amount(way)))
    sparse = run.result["sparse"]
    assert "fc.weight" in sparse["left_out"]
    assert "fc.weight" not in sparse["densities"]
    assert way == "nm" or sparse["weights"] == WEIGHTS - tiny.build().fc.weight.numel()
    assert zeros_in(run.path / "model.onnx") == sparse["zeros"] > 0
    with pytest.raises(ModelError, match="exclude"):
        compress(config(tmp_path / "other", sparsify=way, stay_dense=("nothing*",), epochs=4, **amount(way)))


def test_a_pattern_is_one_in_the_exported_weights(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", sparsify="nm", pattern="1:4", epochs=2))
    assert list(run.result["sparse"]["left_out"]) == ["stem.0.weight"]  # one input channel
    counts = [(np.moveaxis(array, 1, -1).reshape(-1, 4) != 0).sum(1) for array in weights_in(run.path / "model.onnx")]
    assert sum(bool((count == 1).all()) for count in counts) == 4


def test_channels_are_cut_to_their_budget_and_the_rest_is_trained_sparse(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", macs="0.5x", sparsify="granet", sparsity="0.9", epochs=4))
    result = run.result
    assert (run.budget_met, result["budget_metric"]) == (True, "macs")
    assert 0.95 <= result["macs"] / (0.5 * result["baseline_macs"]) <= 1
    left = sum(array.size for array in weights_in(run.path / "model.onnx"))
    assert result["sparse"]["weights"] == left < WEIGHTS
    assert zeros_in(run.path / "model.onnx") >= left - int(left * 0.1)
    assert [event["event"] for event in RunFolder.load(run.path).history()].count("prune_epoch") == 2


def test_epochs_that_end_while_iee_explores_have_no_metric(tmp_path: Path, device: Any) -> None:
    """Sixteen steps in epochs of four: cycles of three steps, whose last step explores, end after twelve."""
    with device():
        run = compress(config(tmp_path / "run", sparsify="iee", sparsity="0.8", epochs=4))
    epochs = RunFolder.load(run.path).history()
    assert len(epochs) == 4
    explores = rule_for(read_config(run.document["config"]), 16, 0.2).explores
    assert [("metric" in epoch) for epoch in epochs] == [not explores(4 * epoch["epoch"]) for epoch in epochs]
    assert explores(8)


def test_what_follows_from_a_rule_and_a_pattern() -> None:
    given = {"model": "a.py:b", "data": "digits", "input_shape": (1, 1, 6, 6), "output": "run"}
    short, long = (
        rule_for(read_config({**given, "sparsify": "granet", "sparsity": 0.9, "initial_density": 0.5}), steps, 0.1)
        for steps in (80, 100_000)
    )
    assert (short.interval, long.interval, short.initial_density) == (2, 1000, 0.5)  # type: ignore[attr-defined]
    assert read_config({**given, "sparsify": "gmp", "sparsity": "97.5%"}).density == pytest.approx(0.025)
    assert read_config({**given, "sparsify": "nm"}).density == 0.5
    assert read_config({**given, "sparsify": "nm", "pattern": "1:8"}).density == 1 / 8


@pytest.mark.parametrize(
    ("changes", "says", "hint"),
    [
        ({}, "0 budgets", "--latency"),
        ({"sparsity": 0.9, "macs": "0.5x"}, "--sparsity: nothing becomes sparse", "--sparsify"),
        ({"storage": "gap8", "pattern": "2:4", "size": "1MB"}, "--pattern, --storage", "--sparsify"),
        ({"sparsify": "gmp"}, "how sparse is not said", "--sparsity 0.9"),
        ({"sparsify": "gmp", "latency": "0.5x"}, "how sparse is not said", "--size 200kB"),
        ({"sparsify": "gmp", "sparsity": 0.9, "size": "1MB"}, "--sparsity and --size both", "one of them"),
        ({"sparsify": "gmp", "sparsity": 1.0}, "'1.0' is no share", "90%"),
        ({"sparsify": "gmp", "sparsity": "90"}, "'90' is no share", "90%"),
        ({"sparsify": "gmp", "sparsity": 0.9, "pattern": "2:4"}, "takes no --pattern", "--sparsify nm"),
        ({"sparsify": "gmp", "sparsity": 0.9, "initial_density": 0.5}, "takes no --initial-density", "granet"),
        ({"sparsify": "nm", "sparsity": 0.5}, "by a pattern, not by --sparsity", "--pattern 2:4"),
        ({"sparsify": "nm", "size": "0.5x"}, "by a pattern, not by --size", "--pattern 2:4"),
        ({"sparsify": "nm", "pattern": "half"}, "'half' is not N:M", "2:4"),
        ({"sparsify": "gmp", "size": "9"}, "no unit", "2MB"),
        ({"sparsify": "gmp", "sparsity": 0.9, "regrow": "iee"}, "are about channels", "--latency"),
        ({"sparsify": "recoverable", "sparsity": 0.9, "distill": 1.0}, "--distill 1", "less than 1"),
        ({"sparsify": "magic", "sparsity": 0.9}, "bidirectional", "--help"),
    ],
)
def test_settings_that_make_no_sense_together(changes: dict[str, Any], says: str, hint: str) -> None:
    given = {"model": "a.py:b", "data": "digits", "input_shape": (1, 1, 6, 6), "output": "run"}
    with pytest.raises(InputError) as caught:
        read_config({**given, **changes})
    assert says in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sparsify": "rigl", "sparsity": 0.9, "epochs": 0}, "steps is 0"),
        ({"sparsify": "bidirectional", "sparsity": 0.9, "epochs": 0}, "prune_steps is 0"),
        ({"sparsify": "iee", "sparsity": 0.9, "epochs": 1, "batch_size": 48}, "steps is 1"),
        ({"sparsify": "granet", "sparsity": 0.5, "initial_density": 0.3}, "initial_density is 0.3"),
        ({"sparsify": "nm", "pattern": "4:4"}, "n is 4"),
    ],
)
def test_what_a_rule_refuses_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        compress(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_model_without_anything_to_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing to mask"):
        compress(config(tmp_path / "run", sparsify="nm", pattern="3:7"))
    assert not (tmp_path / "run").exists()


def test_the_document_of_a_run_without_budgets_reads_back(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", sparsify="gmp", sparsity="50%", epochs=1))
    document = json.loads((run.path / "run.json").read_text())
    assert document["result"]["budget_metric"] is None
    assert document["mask_updates"]["weights"][-1]["density"] == pytest.approx(0.5)
    assert json.loads((run.bundle / "manifest.json").read_text())["budget"] is None
    assert fakes.half_written(run.path) == []
    assert not (run.path / "problem.json").exists()
