import os
import signal
import subprocess
import sys

import pytest

from hwprune.files import replacing_folder


def fill(path, content):
    with replacing_folder(path) as place:
        (place / "a").write_text(content)
        (place / "b").write_text(content)


def read(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def test_folder_appears_whole_with_its_parents(tmp_path):
    fill(tmp_path / "x" / "y", "new")
    assert read(tmp_path / "x" / "y") == {"a": "new", "b": "new"}
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["y"]


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "y"
    with replacing_folder(path) as place:
        assert place.parent == tmp_path
        assert not path.exists()


def test_earlier_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "y"
    path.mkdir()
    (path / "stale").write_text("old")
    fill(path, "new")
    assert read(path) == {"a": "new", "b": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


@pytest.mark.parametrize("earlier", [True, False])
def test_failure_keeps_what_was_there(tmp_path, earlier):
    path = tmp_path / "y"
    if earlier:
        fill(path, "old")

    def interrupted():
        with replacing_folder(path) as place:
            (place / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == (["y"] if earlier else [])
    assert not earlier or read(path) == {"a": "old", "b": "old"}


def test_failing_rename_puts_the_earlier_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "y"
    fill(path, "old")
    rename = os.rename

    def fail(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        fill(path, "new")
    assert read(path) == {"a": "old", "b": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


KILLED = """
import os, signal, sys
from pathlib import Path
from hwprune.files import replacing_folder

path, steps = Path(sys.argv[1]), int(sys.argv[2])

def armed(call):
    def step(*args, **kwargs):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return step

for name in ("mkdir", "rename", "rmdir", "unlink"):
    setattr(os, name, armed(getattr(os, name)))
with replacing_folder(path) as place:
    for name in "ab":
        (place / name).write_text("new")
"""


def test_kill_at_any_step_loses_neither_the_old_nor_the_new(tmp_path):
    seen = []
    for steps in range(20):
        path = tmp_path / str(steps) / "y"
        fill(path, "old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(steps)], check=False, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        seen.append(read(path)["a"] if path.exists() else None)
        if path.exists():
            assert read(path) == {"a": seen[-1], "b": seen[-1]}
        with pytest.raises(ZeroDivisionError), replacing_folder(path):  # the next call repairs, even if it fails
            _ = 1 / 0
        assert read(path) == {"a": seen[-1] or "old", "b": seen[-1] or "old"}
        assert [p.name for p in path.parent.iterdir()] == ["y"]
    assert seen[:3] == ["old", "old", None]  # before the folder, before and between the renames
    assert set(seen[3:]) == {"new"}
