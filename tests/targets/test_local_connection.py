"""Visits in this process."""

from __future__ import annotations

from typing import Any

import pytest

from hwprune import device_runner
from hwprune.errors import InputError, MeasurementError, ModelError
from hwprune.targets import Target, known_targets, load_target
from hwprune.targets.connection import LocalConnection, Visit

from ..engines import networks

TARGET = load_target("local-onnxruntime", threads=2)
MODEL = networks.padded().serialised()


def null_model() -> bytes:
    net = networks.Network(1, 4)
    net.add("Relu", "x")
    return net.serialised()


def connection(target: Target = TARGET) -> LocalConnection:
    return LocalConnection(target, null=null_model(), anchor=MODEL)


def visit(name: str = "first", **changes: Any) -> Visit:
    models = {"a": MODEL, "b": networks.squeezing().serialised()}
    settings: dict[str, Any] = {"models": models, "rounds": 5, "burst": 3, "min_clean": 0.01, **changes}
    return Visit(id=name, **settings)


def measured(connection: LocalConnection, *visits: Visit) -> list[dict[str, Any]]:
    try:
        return list(connection.run(visits))
    except MeasurementError as error:
        pytest.skip(error.message)


def test_visits_are_answered_in_order() -> None:
    with connection() as device:
        first, second = measured(device, visit(instrumented=("b",)), visit("second", models={"a": MODEL}))
        assert device.fingerprint() == device_runner.fingerprint()
    assert (first["id"], second["id"]) == ("first", "second")
    assert set(first["candidates"]) == {"null", "anchor", "a", "b", "b+kernels"}
    assert set(second["candidates"]) == {"null", "anchor", "a"}
    covered = {name for kernel in first["kernels"]["b"] for name in kernel["covers"]}
    assert covered == {f"n{number}" for number in range(15)}
    stats = first["candidates"]["a"]
    assert stats["min_ms"] <= stats["low_ms"] <= stats["p50_ms"] <= stats["high_ms"]
    assert first["candidates"]["null"]["p50_ms"] < stats["p50_ms"]


def test_visits_are_taken_one_at_a_time() -> None:
    taken = []

    def visits() -> Any:
        for number in range(3):
            taken.append(number)
            yield visit(str(number), models={"a": MODEL})

    replies = connection().run(visits())
    try:
        next(replies)
    except MeasurementError as error:
        pytest.skip(error.message)
    assert taken == [0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": {"a": b"junk"}}, ModelError, "measuring first: onnxruntime cannot open the model"),
        ({"attempts": 1, "min_clean": 1.1}, MeasurementError, "measuring first: the device is too busy"),
    ],
)
def test_what_goes_wrong(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        list(connection().run([visit(**changes)]))
    assert caught.value.hint  # type: ignore[attr-defined]


def test_what_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_runner.engine_module("onnxruntime").Engine, "bind", lambda *_: 1 / 0)
    with pytest.raises(ModelError, match="measuring first: ZeroDivisionError"):
        list(connection().run([visit()]))


def test_devices_that_are_not_here() -> None:
    with pytest.raises(InputError, match="cannot be measured from here"):
        connection(Target(name="pi", connection="none"))
    with pytest.raises(InputError, match="no precision 'fp16'"):
        connection(load_target("local-openvino", precision="fp16"))


def test_kernels_that_cannot_be_timed() -> None:
    for target in known_targets().values():
        if target.runtime != "ncnn":
            continue
        try:
            device = connection(target)
        except InputError as error:
            pytest.skip(error.message)
        with pytest.raises(InputError, match="ncnn does not tell"):
            list(device.run([visit(instrumented=("a",))]))


@pytest.mark.parametrize(
    "changes",
    [{"models": {"null": b""}}, {"models": {"a+kernels": b""}}, {"models": {"a": b""}, "instrumented": ("b",)}],
)
def test_visits_that_nobody_could_answer(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"null|kernels|instrumented"):
        visit(**changes)
