"""Every recipe is a compression that could be started; those that bring their data are."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "export/recipes").glob("*"))
KITS = sorted(path.parent.name for path in (ROOT / "export/devices").glob("*/target.toml"))
COMPLETE = sorted(
    {
        document["model"]: path
        for path in RECIPES
        if (document := tomllib.loads(path.read_text())).get("data") != "imagenet"
    }.values()
)  # one for each model, with data that is here


def test_there_are_five_kinds_of_models_for_each_kit() -> None:
    of_kits = {kit: {path.name.split(".")[0] for path in RECIPES if path.name.split(".")[1] == kit} for kit in KITS}
    assert len(KITS) == 4
    for models in of_kits.values():
        assert models == {"resnet50", "mobilenetv2_100", "efficientnet_b0", "segmentation", "detection"}


@pytest.fixture(autouse=True)
def in_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_read_by_compress(path: Path, hwprune: Any, tmp_path: Path) -> None:
    with mock.patch("hwprune.compression.compress", side_effect=KeyboardInterrupt) as compress:
        answer = hwprune(f"compress --config {path} --output {tmp_path / 'run'}")
    assert answer.status == 130, answer.err
    (chosen,) = compress.call_args.args
    for key, value in tomllib.loads(path.read_text()).items():
        found = getattr(chosen, key.replace("-", "_"))
        found = list(found) if isinstance(found, tuple) else str(found) if isinstance(found, Path) else found
        assert found == value
    from hwprune.targets import load_target

    target = load_target(chosen.target, threads=chosen.threads, precision=chosen.precision, batch=chosen.batch)
    model, named, precision, suffix = path.name.rsplit(".", 3)
    assert (named, precision, suffix) == (target.name, target.precision, "toml")
    assert model in chosen.model


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.name)
def test_a_recipe_names_a_model_and_data_that_fit(path: Path, tmp_path: Path) -> None:
    """Everything is loaded and checked, as before a run; nothing is written."""
    from hwprune.compression import Progress, read_config
    from hwprune.compression.job import prepare

    here = {"target": "local-onnxruntime", "precision": "fp32", "output": tmp_path / "run"}
    config = read_config({**tomllib.loads(path.read_text()), **here})
    job = prepare(config, Progress(quiet=True))
    assert job.network.cuttable
    assert list(tmp_path.iterdir()) == []


def test_the_detection_recipe_runs_here(hwprune: Any, tmp_path: Path, on_made_up_device: None) -> None:
    """Its training cut down to one shot and one minibatch, on a made-up device."""
    (path,) = (path for path in RECIPES if path.name.startswith("detection.raspberry"))
    quick = "--method joint-oneshot --saliency-batches 1 --epochs 0 --target local-onnxruntime"
    answer = hwprune(f"compress --config {path} {quick} --output {tmp_path / 'run'}")
    assert answer.status == 0, answer.err
    assert "F1 at IoU 0.5 (exported engine)" in answer.out
    assert hwprune(f"verify {tmp_path / 'run/bundle'} --no-latency").status == 0
