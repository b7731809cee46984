"""A run folder survives a kill at any byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hwprune.compression.folder import RunFolder
from hwprune.errors import InputError


def test_a_run_reads_back(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"seed": 3})
    run.finish_stage("baseline", {"accuracy": 0.5})
    again = RunFolder.load(tmp_path / "run")
    assert again.config == {"seed": 3}
    assert again.stage("baseline") == {"accuracy": 0.5}
    assert again.stage("settle") is None


def test_history_ignores_a_line_cut_at_any_byte_and_keeps_what_follows(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.event("epoch", loss=1.5)
    whole = (run.path / "history.jsonl").read_bytes()
    run.event("epoch", loss=0.25)
    both = (run.path / "history.jsonl").read_bytes()
    for cut in range(len(whole), len(both) + 1):
        (run.path / "history.jsonl").write_bytes(both[:cut])
        run.event("done")
        events = run.history()
        assert events[0] == {"event": "epoch", "loss": 1.5}
        assert events[-1] == {"event": "done"}
        assert len(events) == (3 if cut >= len(both) - 1 else 2)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}', "[" * 100_000, "\udcff"])
def test_a_damaged_run_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        RunFolder.load(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_a_second_holder_is_kept_out(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with (
        run.lock(),
        pytest.raises(InputError, match="another process"),
        RunFolder.load(run.path).lock(),  # an open file of its own: to the lock, a process of its own
    ):
        raise AssertionError("two at once")
    with RunFolder.load(run.path).lock():
        pass


@pytest.mark.parametrize("lacking", ["config", "stages", "status"])
def test_a_run_without_its_parts_is_refused(tmp_path: Path, lacking: str) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    del run.document[lacking]
    run.save()
    with pytest.raises(InputError, match=f"lacks {lacking}"):
        RunFolder.load(run.path)


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    for name in (".run.json.x1.tmp", "checkpoints/.explored.safetensors.y2.tmp", "notes.tmp"):
        (run.path / name).write_text("half")
    run.tidy()
    names = {path.name for path in run.path.rglob("*")}
    assert names == {"run.json", "checkpoints", "notes.tmp"}


def test_an_epoch_is_told_once(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    for attempt, epoch in ((0, 1), (0, 1), (0, 2), (1, 1), (1, 1)):
        run.epoch_event("epoch", attempt=attempt, epoch=epoch, loss=0.5)
    run.epoch_event("prune_epoch", epoch=1)
    run.epoch_event("prune_epoch", epoch=1)
    told = [(event["event"], event.get("attempt"), event["epoch"]) for event in run.history()]
    assert told == [("epoch", 0, 1), ("epoch", 0, 2), ("epoch", 1, 1), ("prune_epoch", None, 1)]


def test_done_is_said_before_the_checkpoints_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.checkpoint("finetuned").write_bytes(b"")

    def look(path: Path, **settings: object) -> None:
        assert RunFolder.load(run.path).document["status"] == "done"

    monkeypatch.setattr(shutil, "rmtree", look)
    run.finish()
    assert run.checkpoint("finetuned").exists()


def test_run_json_never_holds_what_json_cannot(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match="JSON"):
        run.finish_stage("baseline", {"accuracy": float("nan")})
    json.loads((run.path / "run.json").read_text())
