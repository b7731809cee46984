"""Whatever a device or a file of results says: an error of ours, or replies that hold together; nothing else."""

from __future__ import annotations

import collections
import io
import json
import math
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwprune.errors import HwpruneError
from hwprune.targets import Target
from hwprune.targets.connection import Connection, LocalConnection, SshConnection, UnpackedConnection, Visit
from hwprune.targets.connection.channel import ConnectionLost
from hwprune.targets.connection.job import request

from ...mutation import as_json, mutated_bytes, mutated_document
from .test_real_worker import FIXED, model

TARGET = Target(name="far", connection="ssh://nowhere")
SETTINGS = {"rounds": 6, "burst": 3, "max_seconds": 2.0, "min_clean": 0.01}
ASKED = [
    Visit(id="a", models={"dense": model(3), "half": model(2)}, instrumented=("dense",), **SETTINGS),
    Visit(id="b", models={"dense": model(2)}, **SETTINGS),
]
Wrong = Callable[[list[Any], random.Random], bytes]
ROUNDS = 6000  # for each of the ways to be wrong


@pytest.fixture(scope="module")
def results() -> list[Any]:
    """The lines of a file of results: what the worker says on this machine."""
    connection = LocalConnection(Target(name="here"), **FIXED)
    found = [{"fingerprint": connection.fingerprint(), "schema_version": 1}]
    for asked, measured in zip(ASKED, connection.run(ASKED), strict=True):
        found.append({**measured, "id": request(asked, TARGET, **FIXED).id})
    return found


@pytest.fixture
def spoken(results: list[Any]) -> list[Any]:
    """All that a device says over ssh."""
    return [{"missing": ["job.json"]}, *results, {"finished": 0, "stderr": ""}]


class Spoken:
    """A channel on which a device says what was prepared, and then is gone."""

    def __init__(self, content: bytes) -> None:
        self._lines = content.split(b"\n")
        self._last = self._lines.pop()

    def send(self, content: bytes, *, limit_s: float) -> None:
        assert 0 < limit_s < math.inf

    def receive(self, *, limit_s: float) -> bytes:
        assert 0 < limit_s < math.inf
        if not self._lines:
            raise ConnectionLost("gone", 255)
        return self._lines.pop(0)

    def close(self) -> tuple[int, str]:
        return 255, "gone"


def over_ssh(content: bytes, spare: bytes | None = None) -> SshConnection:
    """A connection to a device that says this, and after it was lost, something else."""
    said = iter([content] if spare is None else [content, spare])
    pauses = () if spare is None else (0.0,)

    def dial(words: list[str]) -> Any:
        return Spoken(next(said, b""))

    return SshConnection(TARGET, **FIXED, pauses_s=pauses, dial=dial)


def hold_together(replies: list[dict[str, Any]], visits: list[Visit]) -> None:
    """What whoever reads replies relies on, said in other words than the reader's."""
    assert [one["id"] for one in replies] == [one.id for one in visits]
    for one, asked in zip(replies, visits, strict=True):
        json.dumps(one, allow_nan=False)
        assert set(one["candidates"]) == {
            "null",
            "anchor",
            *asked.models,
            *(f"{name}+kernels" for name in asked.instrumented),
        }
        assert set(one["kernels"]) == set(asked.instrumented)
        for found in one["candidates"].values():
            times = [ms for ms in found["rounds_ms"] if ms is not None]
            assert all(type(ms) in (int, float) and 0 < ms < math.inf for ms in times)
            assert 0 < found["min_ms"] <= found["p50_ms"] * (1 + 1e-6)
            assert found["p50_ms"] <= found["p90_ms"] * (1 + 1e-6) < math.inf
            assert min(times) * (1 - 1e-6) <= found["p50_ms"] <= max(times) * (1 + 1e-6)
            assert 0 <= found["iqr_ms"] < math.inf
            assert type(found["repeats"]) is type(found["clean"]) is int
            assert 1 <= found["clean"] <= found["repeats"] <= asked.rounds * asked.burst
        for kernels in one["kernels"].values():
            for kernel in kernels:
                assert 0 <= kernel["p50_ms"] < math.inf
                assert 0 <= kernel["iqr_ms"] < math.inf
                assert kernel["repeats"] >= 1
                assert all(isinstance(name, str) for name in (kernel["op"], *kernel["covers"]))


def outcome(connection: Connection) -> str:
    """What became of it; any other exception than ours ends the test."""
    try:
        with connection:
            replies = list(connection.run(ASKED))
            device = connection.fingerprint()
    except HwpruneError as error:
        return sound(error)
    hold_together(replies, ASKED)
    json.dumps(device, allow_nan=False)
    return "accepted"


def lines(documents: list[Any]) -> bytes:
    return b"".join(as_json(document) + b"\n" for document in documents)


def wrong_documents(right: list[Any], chance: random.Random) -> bytes:
    """One line or the order of lines is wrong."""
    documents = list(right)
    place = chance.randrange(len(documents))
    how = chance.randrange(10)
    if how == 0:
        del documents[place]
    elif how == 1:
        documents.insert(place, chance.choice(right))
    elif how == 2:
        chance.shuffle(documents)
    elif how == 3:
        documents[place] = {"problem": chance.choice(("no room", "", 3, None, "\x1b[2J"))}
    else:
        documents[place] = mutated_document(documents[place], chance)
    return lines(documents)


def wrong_bytes(right: list[Any], chance: random.Random) -> bytes:
    return mutated_bytes(lines(right), chance)


@pytest.fixture(autouse=True)
def _little_to_send(fake_worker: None) -> None:
    pass


def test_what_is_right_is_accepted(tmp_path: Path, results: list[Any], spoken: list[Any]) -> None:
    assert outcome(over_ssh(lines(spoken))) == "accepted"
    (tmp_path / "results.jsonl").write_bytes(lines(results))
    assert outcome(UnpackedConnection(tmp_path, TARGET, **FIXED)) == "accepted"


@pytest.mark.parametrize("wrong", [wrong_documents, wrong_bytes])
def test_ssh_replies(spoken: list[Any], wrong: Wrong) -> None:
    chance = random.Random(wrong.__name__)
    seen: collections.Counter[str] = collections.Counter()
    for number in range(ROUNDS):
        spare = lines(spoken) if number % 3 == 0 else None
        seen[outcome(over_ssh(wrong(spoken, chance), spare))] += 1
    assert seen["InputError"] > ROUNDS / 2, seen
    assert seen["accepted"] > 0, seen


@pytest.mark.parametrize("wrong", [wrong_documents, wrong_bytes])
def test_files_of_results(tmp_path: Path, results: list[Any], wrong: Wrong) -> None:
    chance, path = random.Random(wrong.__name__), tmp_path / "results.jsonl"
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(ROUNDS // 6):
        path.write_bytes(wrong(results, chance))
        seen[outcome_of_file(path)] += 1
    assert seen["InputError"] > ROUNDS / 12, seen
    assert seen["accepted"] > 0, seen


def test_archives_of_results(tmp_path: Path, results: list[Any]) -> None:
    chance, path = random.Random("archives"), tmp_path / "results.tar"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (("kit/job.json", b"{}"), ("kit/results.jsonl", lines(results))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(packed.getvalue())
    assert outcome_of_file(path) == "accepted"
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(ROUNDS // 6):
        path.write_bytes(mutated_bytes(packed.getvalue(), chance))
        seen[outcome_of_file(path)] += 1
    assert seen["InputError"] > ROUNDS / 20, seen


def outcome_of_file(path: Path) -> str:
    try:
        connection = UnpackedConnection(path, TARGET, **FIXED)
    except HwpruneError as error:
        return sound(error)
    return outcome(connection)


def sound(error: HwpruneError) -> str:
    """The kind of an error that tells what is wrong and what to do, and does nothing to the terminal."""
    assert error.message
    assert error.hint
    assert "\x1b" not in error.message + error.hint
    return type(error).__name__
