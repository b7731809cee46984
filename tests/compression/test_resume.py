"""Stopped at any moment and resumed, a run ends as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hwprune.compression import CompressConfig, RunFolder, compress, resumed_config
from hwprune.errors import InputError, ModelError
from hwprune.regrow import ExploreSchedule
from hwprune.training import loop

from . import fakes
from .fakes import config
from .killing import killed_and_resumed, lives


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, device: Any) -> Path:
    """A run that nothing interrupted, with the files it wrote in order (``writes.json``)."""
    run = tmp_path_factory.mktemp("whole") / "run"
    writes = fakes.Writes(run, lambda: None)
    with device(), writes.armed():
        compress(config(run, macs="0.5x"))
    (run.parent / "writes.json").write_text(json.dumps(writes.names))
    return run


def go_on(run: Path) -> None:
    """What a user does: resume if there is something to resume, else start again."""
    if (run / "run.json").exists():
        compress(resumed_config(run), resume=True)
    else:
        compress(config(run, macs="0.5x"))


def check_equal(run: Path, whole: Path) -> None:
    assert fakes.outcome(run) == fakes.outcome(whole)
    assert fakes.half_written(run) == []
    expected = {path.relative_to(whole) for path in whole.rglob("*")}
    assert {path.relative_to(run) for path in run.rglob("*")} == expected
    events = [RunFolder.load(path).history() for path in (run, whole)]
    trials = [{json.dumps(event) for event in found if event["event"] == "trial"} for found in events]
    assert trials[0] == trials[1]  # measured again after an interruption, so there may be more of the same
    epochs = [[event for event in found if event["event"] != "trial"] for found in events]
    assert epochs[0] == epochs[1]  # none is missing, none is there twice


def interrupt() -> None:
    raise fakes.Interrupted


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_is_deterministic_and_writes_what_it_should(tmp_path: Path, device: Any, whole: Path) -> None:
    with device():
        compress(config(tmp_path / "run", macs="0.5x"))
    check_equal(tmp_path / "run", whole)
    names = json.loads((whole.parent / "writes.json").read_text())
    assert names[0] == names[-1] == "run.json"
    assert len(names) > 25


@pytest.mark.parametrize("part", range(4))
def test_an_exception_at_any_write(tmp_path: Path, device: Any, whole: Path, part: int) -> None:
    """Ctrl-C and a full disk, in turn, at every file that appears, just before and just after it does."""
    count = len(json.loads((whole.parent / "writes.json").read_text()))
    for at in range(1 + part, count + 1, 4):
        run = tmp_path / str(at) / "run"
        full, after = at // 2 % 2 == 1, at % 2 == 1
        writes = fakes.Writes(run, fill_the_disk if full else interrupt, at=at, after=after and not full)
        with device():
            with writes.armed(), pytest.raises(InputError if full else fakes.Interrupted) as caught:
                compress(config(run, macs="0.5x"))
            if full:
                assert "space" in caught.value.message + caught.value.hint
            assert [path for path in tmp_path.rglob("*.tmp")] == []
            go_on(run)
        check_equal(run, whole)
        shutil.rmtree(run)


@pytest.mark.parametrize("name", ["baseline", "reach", "explore", "settle", "finetune", "artifact", "measured"])
def test_an_exception_between_stages(tmp_path: Path, device: Any, whole: Path, name: str) -> None:
    """Stopped when a stage has done its work but has not said so, and again when it has."""
    run, finish = tmp_path / "run", RunFolder.finish_stage

    def before(self: RunFolder, stage: str, record: Any) -> None:
        if stage == name:
            raise fakes.Interrupted
        finish(self, stage, record)

    def after(self: RunFolder, stage: str, record: Any) -> None:
        finish(self, stage, record)
        if stage == name:
            raise fakes.Interrupted

    with device():
        for stopping in (before, after):
            with mock.patch.object(RunFolder, "finish_stage", stopping), pytest.raises(fakes.Interrupted):
                go_on(run)
        go_on(run)
    check_equal(run, whole)


@pytest.mark.parametrize("name", ["explore", "finetune-0"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_that_was_saved_is_not_trained_again(
    tmp_path: Path, device: Any, whole: Path, monkeypatch: pytest.MonkeyPatch, name: str, epoch: int
) -> None:
    trained: list[int] = []
    run_epoch = loop._Loop.run_epoch
    monkeypatch.setattr(loop._Loop, "run_epoch", lambda self, epoch: trained.append(epoch) or run_epoch(self, epoch))
    names = json.loads((whole.parent / "writes.json").read_text())
    at = [index for index, file in enumerate(names, start=1) if file == f"{name}.safetensors"][epoch - 1]
    run = tmp_path / "run"
    with device():
        with fakes.Writes(run, interrupt, at=at).armed(), pytest.raises(fakes.Interrupted):
            compress(config(run, macs="0.5x"))
        go_on(run)
    assert trained == [0, 1, 0, 1]
    check_equal(run, whole)


def test_killed_after_every_file_and_resumed(tmp_path: Path, device: Any, tables: Any, exports: Path) -> None:
    """The road by measured latency, with a second attempt; each life of the run ends with SIGKILL."""
    whole = tmp_path / "whole"
    with device(fakes.slow_when_delivered(whole, 1.08)):
        compress(config(whole, latency="0.5x", table=tables["here"]))
    run = tmp_path / "killed"
    (*killed, last), said = lives("kill_worker.py", run, exports, tables["here"])
    assert last == 0, said
    assert set(killed) == {-signal.SIGKILL}
    assert len(killed) > 15
    assert fakes.outcome(run) == fakes.outcome(whole)
    assert fakes.outcome(run)["result"]["attempts"] == 2
    epochs = [e["epoch"] for e in RunFolder.load(run).history() if e["event"] in ("epoch", "prune_epoch")]
    assert epochs == [1, 2, 1, 2, 1, 2]  # pruning, first attempt, second attempt: none lost, none twice
    assert fakes.half_written(run) == []


def test_killed_in_every_stage_of_iee_and_resumed(tmp_path: Path, device: Any, exports: Path) -> None:
    """Two cycles of nine steps in six epochs of four: stages begin and end within epochs."""
    settings = {"macs": "0.5x", "regrow": "iee", "prune_steps": 2, "prune_epochs": 6, "epochs": 1}
    each = ExploreSchedule.of(24, cycles=2).importance_steps
    assert each == 3
    # importance, the prune step itself, accuracy, exploration, the grow step; and in the second cycle's exploration
    stops = [2, 3, 3 + 2, 6 + 2, 9, 9 + 6 + 2]
    killed_and_resumed(tmp_path, device, exports, settings, stops)


def test_a_finished_run_is_given_back(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "checkpoints").mkdir()  # killed between the last run.json and clearing up
    (run / "checkpoints/explored.safetensors").write_bytes(b"")
    again = compress(resumed_config(run), resume=True)
    assert again.result["macs"] == fakes.outcome(whole)["result"]["macs"]
    assert not (run / "checkpoints").exists()


def test_killed_before_anything_was_written_the_folder_is_free(tmp_path: Path, device: Any, whole: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".run.json.abc.tmp").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is missing") as caught:
        resumed_config(run)
    assert "starts anew" in caught.value.hint
    with device():
        compress(config(run, macs="0.5x"))
    check_equal(run, whole)


def stopped(run: Path, device: Any, stage: str = "reach", **changes: Any) -> CompressConfig:
    """A run that was stopped when a stage was done."""
    settings, finish = config(run, macs="0.5x", **changes), RunFolder.finish_stage

    def stop(self: RunFolder, name: str, record: Any) -> None:
        finish(self, name, record)
        if name == stage:
            raise fakes.Interrupted

    with device(), mock.patch.object(RunFolder, "finish_stage", stop), pytest.raises(fakes.Interrupted):
        compress(settings)
    return settings


def test_other_settings_do_not_continue_a_run(tmp_path: Path, device: Any) -> None:
    settings = stopped(tmp_path / "run", device)
    before = (tmp_path / "run/run.json").read_bytes()
    other = settings.model_copy(update={"macs": "0.6x", "epochs": 7})
    with device(), pytest.raises(InputError, match=r"epochs 2 \(now 7\)") as caught:
        compress(other, resume=True)
    assert "macs '0.5x' (now '0.6x')" in caught.value.message
    assert (tmp_path / "run/run.json").read_bytes() == before


def test_a_resumed_run_no_longer_needs_the_files_it_was_given(tmp_path: Path, device: Any, tables: Any) -> None:
    table = tmp_path / "table.json"
    shutil.copy(tables["here"], table)
    settings = stopped(tmp_path / "run", device, table=table)
    table.unlink()
    with device():
        assert compress(settings, resume=True).budget_met


def test_another_model_does_not_continue_a_run(tmp_path: Path, device: Any) -> None:
    from torch import nn

    from hwprune.compression import InMemory

    settings = stopped(tmp_path / "run", device)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    with device(), pytest.raises(ModelError, match="not the one that the run was started with"):
        compress(settings, given=InMemory(model=other), resume=True)
    with device():
        assert compress(settings, resume=True).budget_met


@pytest.mark.parametrize("damage", ["checkpoints/explored.safetensors", "dense.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, device: Any, damage: str) -> None:
    settings = stopped(tmp_path / "run", device, "explore")
    file = tmp_path / "run" / damage
    file.write_bytes(file.read_bytes()[:-100])
    with device(), pytest.raises(InputError, match=Path(damage).name):
        compress(settings, resume=True)
    assert (tmp_path / "run/run.json").exists()
