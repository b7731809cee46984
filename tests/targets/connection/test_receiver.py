"""The device's end of a connection: what it refuses, and what it leaves alone."""

from __future__ import annotations

import ast
import os
import tempfile
from pathlib import Path

import pytest

from hwprune.errors import InputError
from hwprune.targets.connection import receiver, session, ssh
from hwprune.targets.connection.ssh import SshConnection

from .asked import FIXED, visits
from .conftest import Shell


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_python_3_8_and_the_standard_library() -> None:
    tree = ast.parse(session._receiver(), feature_version=(3, 8))
    imported = {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    assert not {name for name in imported if name.startswith(("hwprune", "numpy"))}
    assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} == {
        "__future__",
        "contextlib",
        "typing",
    }


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", ".hidden", "-x", "a\n", "é", "a" * 200]
)
def test_only_plain_names(name: str) -> None:
    with pytest.raises(receiver.Problem, match="is no plain file name"):
        receiver.plain(name)


def test_a_folder_is_private_and_removed_as_a_whole(temporary: Path) -> None:
    folder = receiver.Folder("f")
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    (temporary / "f" / "inside").mkdir()
    (temporary / "f" / "inside" / "file").touch()
    folder.remove()
    assert list(temporary.iterdir()) == []


def test_a_link_in_place_of_the_folder_is_not_followed(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / "f").symlink_to(temporary / "elsewhere")
    with pytest.raises(receiver.Problem, match="belongs to somebody else"):
        receiver.Folder("f")


def test_who_comes_too_late_leaves_the_folder_of_the_next(temporary: Path) -> None:
    folder = receiver.Folder("f")
    (temporary / "f").rename(temporary / "cleared away")
    (temporary / "f").mkdir()
    (temporary / "f" / "lock").touch()
    folder.remove()
    assert (temporary / "f" / "lock").exists()


def test_tidying_removes_all_but_what_is_asked_for(temporary: Path) -> None:
    folder = receiver.Folder("f")
    job = b"a job"
    for name in ("job.json", "keep", "old", "results.jsonl"):
        Path(folder.file(name)).write_bytes(job)
    (temporary / "f" / "cache").mkdir()
    (temporary / "f" / "link").symlink_to(temporary)
    files = {"job.json": {"sha256": "of another", "bytes": len(job)}, "keep": {}}
    folder.tidy(files)
    assert sorted(os.listdir(folder.path)) == ["job.json", "keep", "lock"]
    assert temporary.exists()
    folder.remove()


@pytest.mark.usefixtures("fake_worker")
def test_a_full_disk_is_named_before_anything_is_sent(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    device, dial = shell
    whole = session._receiver()
    full = whole.replace(b"shutil.disk_usage(folder.path).free", b"100")
    assert full != whole
    monkeypatch.setattr(session, "_receiver", lambda: full)
    with SshConnection(device.target, **FIXED, dial=dial) as connection:
        with pytest.raises(InputError, match=r"has room for 100 bytes, and \d+ are needed"):
            list(connection.run(visits("a")))
        assert device.folders == []


def test_files_outside_the_folder_are_never_written(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    device, dial = shell
    monkeypatch.setattr(ssh, "device_files", lambda runtime, worker: {"../outside.py": b"evil"})
    refused = pytest.raises(InputError, match=r"'\.\./outside\.py' is no plain file name")
    with SshConnection(device.target, **FIXED, dial=dial) as connection, refused:
        list(connection.run(visits("a")))
    assert device.folders == []
    assert sorted(os.listdir(device.home)) == ["tmp"]
