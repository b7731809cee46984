"""How a device was measured."""

from __future__ import annotations

import pytest

from hwprune.errors import MeasurementError
from hwprune.latency.conditions import MOST_OTHERS, Conditions

from .fakes import DEVICE


def loaded(*others: float | None, clock: str = "perf_counter_ns") -> Conditions:
    seen = Conditions()
    for one in others:
        seen.add({"clock": clock, "contention": {"clean_fraction": 0.8, "other_cpus": one}})
    return seen


def test_most_of_the_time_decides() -> None:
    loaded(0.1, 2.0, 0.0).check(DEVICE)
    with pytest.raises(MeasurementError, match=r"kept 1\.8 of the device's 2 processors busy") as caught:
        loaded(1.8, 0.1, 1.9).check(DEVICE)
    assert caught.value.hint == "stop what else is running on the device, then measure again"


def test_how_much_is_too_much_depends_on_how_many_processors_there_are() -> None:
    loaded(1.8).check({**DEVICE, "logical_cpus": 4})
    loaded(2 * MOST_OTHERS - 0.01).check(DEVICE)
    with pytest.raises(MeasurementError):
        loaded(2 * MOST_OTHERS + 0.01).check(DEVICE)


@pytest.mark.parametrize("device", [DEVICE, {"cpu": "of a kind that does not say how many"}])
def test_what_nobody_knows_is_no_reason_to_refuse(device: dict) -> None:
    loaded(None, None).check(device)
    assert loaded(None).protocol() == {
        "clock": "perf_counter_ns",
        "clean_fraction": 0.8,
        "other_cpus": None,
    }


def test_a_device_that_does_not_say_how_many_processors_it_has_is_not_refused() -> None:
    loaded(64.0).check({**DEVICE, "logical_cpus": None})


def test_for_the_table() -> None:
    told = loaded(0.25, 0.75, None, clock="cuda_events, without transfers").protocol()
    assert told == {"clock": "cuda_events, without transfers", "clean_fraction": 0.8, "other_cpus": 0.5}
