"""Each way in which a reply can contradict itself, or the question."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from hwprune.errors import HwpruneError, InputError, MeasurementError, ModelError
from hwprune.targets.connection.replies import read_fingerprint, read_reply

from .asked import visit
from .fake_worker import FINGERPRINT, reply

ASKED = visit("v", rounds=6, burst=3)
RIGHT = reply({"id": "v#1", **{name: getattr(ASKED, name) for name in ("models", "instrumented", "rounds", "burst")}})


def read(document: Any) -> dict[str, Any]:
    return read_reply(json.dumps(document).encode(), "v#1", ASKED)


def changed(path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(RIGHT)
    here = document
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return document


def test_a_right_reply_comes_under_the_visits_own_id() -> None:
    assert read(RIGHT) == {**RIGHT, "id": "v"}


def test_rounds_without_an_undisturbed_sample_are_fine() -> None:
    times = RIGHT["candidates"]["dense"]["rounds_ms"]
    assert read(changed(("candidates", "dense", "rounds_ms"), [None, *times[1:]]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("p50_ms", 0),
        ("p50_ms", -1.0),
        ("p50_ms", True),
        ("p50_ms", "1"),
        ("p50_ms", 0.01),  # below the least
        ("p50_ms", 100.0),  # above the 90th percentile
        ("p90_ms", 0.01),
        ("low_ms", 1e-6),  # below the least
        ("high_ms", 1e-6),  # below low_ms
        ("min_ms", 100.0),
        ("iqr_ms", -0.1),
        ("iqr_ms", 100.0),  # more than from the least to the 90th percentile
        ("cpu_p50_ms", -1.0),
        ("repeats", 0),
        ("repeats", 11),  # no multiple of the rounds
        ("repeats", 18),  # more than bursts of 3
        ("repeats", 6),  # fewer than the others
        ("repeats", 12.0),
        ("clean", 0),
        ("clean", 13),
        ("clean", 5),  # six rounds had one
        ("clean", 3),  # less than the fraction asked for
        ("calls_per_sample", 0),
        ("calls_per_sample", 2**31),
        ("rounds_ms", []),
        ("rounds_ms", [None] * 6),
        ("rounds_ms", [100.0] * 6),  # the median is below every round's
        ("rounds_ms", [1.5] * 12),  # more than asked for
        ("rounds_ms", [0.0] * 6),
        ("rounds_ms", 1.5),
    ],
)
def test_statistics_that_cannot_be(key: str, value: Any) -> None:
    with pytest.raises(InputError, match="reply 'v': dense") as caught:
        read(changed(("candidates", "dense", key), value))
    assert caught.value.hint


def test_more_rounds_than_asked_for() -> None:
    document = copy.deepcopy(RIGHT)
    for one in document["candidates"].values():
        one.update(rounds_ms=one["rounds_ms"] * 2, repeats=24, clean=24)
    with pytest.raises(InputError, match="contradict each other, or what was asked for"):
        read(document)


TIMES = RIGHT["candidates"]["dense"]["rounds_ms"]


@pytest.mark.parametrize(
    ("changes", "of_all"),
    [
        ({"p90_ms": TIMES[0], "iqr_ms": 0.0}, False),  # below the median
        ({"min_ms": TIMES[1], "low_ms": TIMES[1]}, False),  # above a round's median
        ({"clean": 3, "rounds_ms": [None, None, None, *TIMES[3:]], "p50_ms": TIMES[4]}, False),  # a fourth, not 0.3
        ({"repeats": 11, "clean": 11}, True),  # not the same number in every round
        ({"repeats": 18, "clean": 18}, True),  # longer bursts than asked for
        ({"repeats": 6, "clean": 6}, False),  # another number than the others
        (
            {key: 0.0 for key in ("p50_ms", "p90_ms", "low_ms", "high_ms", "min_ms", "iqr_ms")}
            | {"rounds_ms": [0.0] * 6},
            True,
        ),
    ],
)
def test_statistics_that_contradict_each_other_and_nothing_else(changes: dict[str, Any], of_all: bool) -> None:
    document = copy.deepcopy(RIGHT)
    for name in document["candidates"] if of_all else ["dense"]:
        document["candidates"][name].update(changes)
    with pytest.raises(InputError, match="reply 'v'"):
        read(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("id",), "w#1"),
        (("id",), None),
        (("extra",), 1),
        (("candidates", "fourth"), RIGHT["candidates"]["dense"]),
        (("candidates", "dense", "extra"), 1),
        (("candidates",), []),
        (("kernels",), {}),
        (("kernels", "half"), []),
        (("kernels", "dense", 0, "p50_ms"), -1),
        (("kernels", "dense", 0, "iqr_ms"), None),
        (("kernels", "dense", 0, "repeats"), 0),
        (("kernels", "dense", 0, "covers"), "node"),
        (("kernels", "dense", 0, "covers"), [1]),
        (("kernels", "dense", 0, "op"), 1),
        (("kernels", "dense", 0), None),
        (("contention", "clean_fraction"), 0),
        (("contention", "clean_fraction"), 1.1),
        (("contention", "load1"), -1),
        (("contention", "other_cpus"), "none"),
        (("contention", "involuntary_switches"), -1),
        (("contention",), None),
        (("clock",), ""),
        (("clock",), "a" * 101),
        (("clock",), "\x1b[2J"),
        (("clock",), None),
    ],
)
def test_replies_that_are_not_what_was_asked_for(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(changed(path, value))
    assert caught.value.hint


@pytest.mark.parametrize("name", ["null", "anchor", "dense", "half", "dense+kernels"])
def test_no_candidate_may_be_missing(name: str) -> None:
    document = copy.deepcopy(RIGHT)
    del document["candidates"][name]
    with pytest.raises(InputError, match=f"exactly what was asked for; wrong: .*{name.replace('+', '.')}"):
        read(document)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"1", b"\xff", b'{"id": "v#1"', b'{"id": "v#1", "id": "v#1"}'])
def test_lines_that_are_no_reply(line: bytes) -> None:
    with pytest.raises(InputError):
        read_reply(line, "v#1", ASKED)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("refused", MeasurementError),
        ("bad_input", ModelError),
        ("crashed", ModelError),
        ("missing", InputError),
        ("unheard of", InputError),
    ],
)
def test_errors_of_the_device(kind: str, error: type[HwpruneError]) -> None:
    document = {"id": "v#1", "error": {"kind": kind, "message": "so it\x1b[2J is\n" + "x" * 5000}}
    with pytest.raises(HwpruneError) as caught:
        read(document)
    assert type(caught.value) is error
    assert caught.value.hint
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 2500


@pytest.mark.parametrize(
    "error", [None, "refused", {"kind": "refused"}, {"kind": 1, "message": ""}, {"kind": "refused", "message": None}]
)
def test_errors_that_are_malformed(error: Any) -> None:
    with pytest.raises(InputError):
        read({"id": "v#1", "error": error})


def test_the_device() -> None:
    line = json.dumps({"fingerprint": FINGERPRINT, "schema_version": 1}).encode()
    assert read_fingerprint(line, "onnxruntime") == FINGERPRINT
    with pytest.raises(InputError, match="'onnxruntime', and 'openvino' was asked for"):
        read_fingerprint(line, "openvino")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"fingerprint": FINGERPRINT}, "lacks the key 'schema_version'"),
        ({"fingerprint": FINGERPRINT, "schema_version": 2}, "schema_version 2; this hwprune reads 1"),
        ({"fingerprint": FINGERPRINT, "schema_version": True}, "not a whole number"),
        ({"fingerprint": {**FINGERPRINT, "cpus": 1e999}, "schema_version": 1}, "Infinity"),
        ({"fingerprint": {"runtime": "onnxruntime"}, "schema_version": 1}, "fingerprint lacks the key 'cpu'"),
        ({"fingerprint": [], "schema_version": 1}, "not an object"),
    ],
)
def test_devices_that_are_malformed(document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_fingerprint(json.dumps(document).encode(), "onnxruntime")


def test_numbers_too_large_and_deep_nesting_in_a_device() -> None:
    start = json.dumps({**FINGERPRINT, "x": 0}).removesuffix("0}").encode()
    for value in (b"1e999", b"[" * 900 + b"1e999" + b"]" * 900, b"[" * 100_000):
        with pytest.raises(InputError):
            read_fingerprint(b'{"schema_version": 1, "fingerprint": ' + start + value + b"}}", "onnxruntime")
