"""Every recipe is a compression that could be started."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

RECIPES = sorted((Path(__file__).parents[1] / "export/recipes").glob("*"))


def test_there_is_a_recipe() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_read_by_compress(path: Path, hwprune: Any, tmp_path: Path) -> None:
    with mock.patch("hwprune.compression.compress", side_effect=KeyboardInterrupt) as compress:
        answer = hwprune(f"compress --config {path} --output {tmp_path / 'run'}")
    assert answer.status == 130, answer.err
    (chosen,) = compress.call_args.args
    for key, value in tomllib.loads(path.read_text()).items():
        found = getattr(chosen, key.replace("-", "_"))
        assert (list(found) if isinstance(found, tuple) else found) == value
    from hwprune.targets import load_target

    target = load_target(chosen.target, threads=chosen.threads, precision=chosen.precision, batch=chosen.batch)
    model, named, precision, suffix = path.name.rsplit(".", 3)
    assert (named, precision, suffix) == (target.name, target.precision, "toml")
    assert chosen.model.endswith(model)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_names_a_model_and_data_that_fit(path: Path, tmp_path: Path) -> None:
    """Everything is loaded and checked, as before a run; nothing is written."""
    from hwprune.compression import Progress, read_config
    from hwprune.compression.job import prepare

    config = read_config({**tomllib.loads(path.read_text()), "output": tmp_path / "run"})
    job = prepare(config, Progress(quiet=True))
    assert job.network.cuttable
    assert list(tmp_path.iterdir()) == []
