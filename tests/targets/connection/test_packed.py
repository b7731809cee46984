from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwprune.errors import InputError, MeasurementError
from hwprune.targets import Target, known_targets
from hwprune.targets.connection import UnpackedConnection, pack
from hwprune.targets.connection.channel import MAX_LINE
from hwprune.targets.device_files import device_files

from .asked import FIXED, visit, visits
from .fake_worker import FINGERPRINT

TARGET = Target(name="island", connection="none", threads=2)
ASKED = visits("a", "b", "c")


def packed(folder: Path, asked: Any = ASKED, target: Target = TARGET) -> Path:
    pack(asked, target, **FIXED, path=folder / "kit.tar")
    return folder / "kit.tar"


@pytest.fixture
def results(fake_worker: None, tmp_path: Path) -> Path:
    """What the fake worker makes of the kit."""
    with tarfile.open(packed(tmp_path)) as kit:
        kit.extractall(tmp_path / "stick", filter="data")
    folder = tmp_path / "stick" / "hwprune-kit"
    subprocess.run(worker(folder), check=True, timeout=60, capture_output=True)
    return folder / "results.jsonl"


def worker(folder: Path) -> list[str]:
    return [sys.executable, str(folder / "worker.py"), str(folder)]


def unpacked(path: Path, **changes: Any) -> UnpackedConnection:
    return UnpackedConnection(path, **{"target": TARGET, **FIXED, **changes})


def ids(connection: UnpackedConnection, asked: Any = ASKED) -> list[str]:
    return [reply["id"] for reply in connection.run(asked)]


@pytest.mark.parametrize("runtime", [target.runtime for target in known_targets().values()])
def test_a_kit_has_everything_and_its_hashes(tmp_path: Path, runtime: str) -> None:
    with tarfile.open(packed(tmp_path, target=Target(name="x", runtime=runtime))) as kit:
        members = kit.getmembers()
        contents = {one.name.removeprefix("hwprune-kit/"): kit.extractfile(one).read() for one in members}
    assert all(one.isfile() and one.mode == 0o644 and not one.mtime and not one.uname for one in members)
    job = json.loads(contents["job.json"])
    assert [one["id"].partition("#")[0] for one in job["visits"]] == ["a", "b", "c"]
    assert all((one["threads"], one["runtime"]) == (1, runtime) for one in job["visits"])
    assert set(contents) == {*job["files"], "job.json", "README.txt"}
    for name, record in job["files"].items():
        assert record == {"sha256": hashlib.sha256(contents[name]).hexdigest(), "bytes": len(contents[name])}
    software = device_files(runtime, worker=True)
    assert {name: contents[name] for name in software} == software
    models = {content for name, content in contents.items() if name.startswith("model-")}
    assert models == {*FIXED.values(), *(model for one in ASKED for model in one.models.values())}
    assert b"python3 worker.py ." in contents["README.txt"]


def test_the_same_visits_give_the_same_bytes(tmp_path: Path) -> None:
    first = packed(tmp_path).read_bytes()
    os.utime(tmp_path / "kit.tar", (0, 0))
    assert packed(tmp_path, iter(ASKED)).read_bytes() == first
    assert packed(tmp_path, visits("a", "b", "d")).read_bytes() != first


def test_a_kit_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    earlier = packed(tmp_path).read_bytes()

    def stopped() -> Any:
        yield ASKED[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path, stopped())
    assert (tmp_path / "kit.tar").read_bytes() == earlier
    assert os.listdir(tmp_path) == ["kit.tar"]


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown runtime 'abacus'"):
        packed(tmp_path, target=Target(name="x", runtime="abacus"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", ["file", "folder", "tar of the folder", "tar of its content"])
def test_results_come_back_in_any_form(results: Path, tmp_path: Path, form: str) -> None:
    path = {"file": results, "folder": results.parent}.get(form, tmp_path / "back.tar")
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            archive.add(results.parent, arcname="hwprune-kit" if form == "tar of the folder" else ".")
    connection = unpacked(path)
    assert connection.fingerprint() == FINGERPRINT
    assert ids(connection) == ["a", "b", "c"]
    assert ids(connection) == ["a", "b", "c"], "it can be read again"


@pytest.mark.parametrize(
    "other",
    [
        lambda: ({}, [visit("a", models={"dense": b"changed", "half": b"half of a"}), *ASKED[1:]]),
        lambda: ({}, [visit("a", rounds=6), *ASKED[1:]]),
        lambda: ({}, ASKED[::-1]),
        lambda: ({"anchor": b"another anchor"}, ASKED),
        lambda: ({"null": b"another null"}, ASKED),
        lambda: ({"target": dataclasses.replace(TARGET, threads=1)}, ASKED),
        lambda: ({"target": dataclasses.replace(TARGET, precision="int8")}, ASKED),
    ],
)
def test_results_of_another_kit_are_refused(results: Path, other: Callable[[], Any]) -> None:
    changes, asked = other()
    with pytest.raises(InputError, match=r"results\.jsonl: the answer is about a#\w+, and [ac]#\w+ was asked for"):
        ids(unpacked(results, **changes), asked)


def test_results_of_another_runtime_are_refused(results: Path) -> None:
    with pytest.raises(InputError, match="the device ran 'onnxruntime', and 'openvino' was asked for"):
        unpacked(results, target=dataclasses.replace(TARGET, runtime="openvino"))


def test_incomplete_results_say_how_to_go_on(results: Path) -> None:
    whole = results.read_bytes()
    for end in (whole.rindex(b'{"id": "c#'), len(whole) - 1, len(whole) - 100):
        results.write_bytes(whole[:end])
        replies = unpacked(results).run(ASKED)
        assert [next(replies)["id"], next(replies)["id"]] == ["a", "b"]
        with pytest.raises(InputError, match="there is no answer about visit c in it") as caught:
            next(replies)
        assert "run the worker again" in caught.value.hint
    results.write_bytes(b"")
    with pytest.raises(InputError):
        unpacked(results)


def test_more_results_than_asked_for_are_refused(results: Path) -> None:
    replies = unpacked(results).run(ASKED[:2])
    next(replies), next(replies)
    with pytest.raises(InputError, match="answers to more visits"):
        next(replies)


def test_a_device_that_was_too_busy(fake_worker: None, tmp_path: Path) -> None:
    with tarfile.open(packed(tmp_path, visits("refuse"))) as kit:
        kit.extractall(tmp_path / "stick", filter="data")
    folder = tmp_path / "stick" / "hwprune-kit"
    subprocess.run(worker(folder), check=True, timeout=60, capture_output=True)
    with pytest.raises(MeasurementError, match="too busy"):
        ids(unpacked(folder), visits("refuse"))


def test_an_endless_line_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(MAX_LINE * 100)
    with pytest.raises(InputError, match=f"is longer than {MAX_LINE} bytes"):
        unpacked(path)


@pytest.mark.parametrize("make", ["nothing", "empty folder", "text", "gzip", "empty tar"])
def test_what_holds_no_results(tmp_path: Path, results: Path, make: str) -> None:
    path = tmp_path / "back"
    if make == "empty folder":
        path.mkdir()
    elif make == "text":
        path.write_text("results\n")
    elif make == "gzip":
        with tarfile.open(path, "w:gz") as archive:
            archive.add(results, "results.jsonl")
    elif make == "empty tar":
        tarfile.open(path, "w").close()
    with pytest.raises(InputError) as caught:
        unpacked(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def _link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("results.jsonl")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("/results.jsonl"),
        tarfile.TarInfo("../results.jsonl"),
        tarfile.TarInfo("kit/../../results.jsonl"),
        _link(tarfile.SYMTYPE),
        _link(tarfile.LNKTYPE),
        _link(tarfile.FIFOTYPE),
        _link(tarfile.CHRTYPE),
        tarfile.TarInfo("other/results.jsonl"),  # beside the right one
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_odd_archives_are_refused(results: Path, tmp_path: Path, member: tarfile.TarInfo) -> None:
    path, content = tmp_path / "back.tar", results.read_bytes()
    for odd_first in (True, False):
        with tarfile.open(path, "w") as archive:
            right = tarfile.TarInfo("kit/results.jsonl")
            right.size = len(content)
            member.size = len(content) if member.isfile() else 0
            for one in (member, right) if odd_first else (right, member):
                archive.addfile(one, io.BytesIO(content))
        with pytest.raises(InputError):
            unpacked(path)
    assert sorted(os.listdir(tmp_path)) == ["back.tar", "kit.tar", "log", "stick"]


def test_an_archive_that_claims_to_be_huge(tmp_path: Path) -> None:
    member = tarfile.TarInfo("results.jsonl")
    member.size = 2**40
    (tmp_path / "back.tar").write_bytes(member.tobuf() + b"{" * 1024)
    with pytest.raises(InputError):
        unpacked(tmp_path / "back.tar")


def test_nothing_of_a_kit_stays_in_memory_or_on_disk(results: Path) -> None:
    """Reading back needs the results alone."""
    for path in results.parent.iterdir():
        if path != results:
            path.unlink() if path.is_file() else shutil.rmtree(path)
    assert ids(unpacked(results)) == ["a", "b", "c"]
