"""A run folder survives a kill at any byte."""

from __future__ import annotations

import json
import subprocess
import sys
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


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    code = (
        "import sys; from pathlib import Path; from hwprune.compression.folder import RunFolder\n"
        "with RunFolder.load(Path(sys.argv[1])).lock(): pass"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with run.lock():
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_run_json_never_holds_what_json_cannot(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match="JSON"):
        run.finish_stage("baseline", {"accuracy": float("nan")})
    json.loads((run.path / "run.json").read_text())
