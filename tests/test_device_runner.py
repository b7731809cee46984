"""The clock, on clocks made up by hand."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune import device_facts, device_runner
from hwprune.device_runner import MeasurementRefused, measure, ratio

MS = 1_000_000


class FakeTime:
    """Time passes only when a call says so: `work` on the processor, `wait` while others have it."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.switches = 0
        self.slept: list[float] = []
        self.log: list[str] = []

    def perf_counter_ns(self) -> int:
        return self.wall

    def thread_time_ns(self) -> int:
        return self.cpu

    def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)

    def call(self, name: str, work: Callable[[int], float], wait: Callable[[int], float] = lambda _: 0) -> Any:
        """A call that takes `work(i)` ns of processor and `wait(i)` ns of waiting, i counting its runs."""
        count = 0

        def run() -> None:
            nonlocal count
            self.log.append(name)
            self.cpu += round(work(count))
            self.wall += round(work(count) + wait(count))
            self.switches += wait(count) > 0
            count += 1

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return install(monkeypatch)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(device_runner, "time", fake)
    monkeypatch.setattr(device_runner, "_told", lambda: (fake.switches, None))  # as on systems that do not tell waiting
    return fake


def test_a_quiet_device(clock: FakeTime) -> None:
    result = measure({"a": clock.call("a", lambda _: 2 * MS)}, rounds=7, burst=4)
    stats = result["candidates"]["a"]
    assert {key: stats[key] for key in ("p50_ms", "p90_ms", "min_ms", "iqr_ms", "cpu_p50_ms")} == {
        "p50_ms": 2.0,
        "p90_ms": 2.0,
        "min_ms": 2.0,
        "iqr_ms": 0.0,
        "cpu_p50_ms": 2.0,
    }
    assert (stats["repeats"], stats["clean"], stats["calls_per_sample"]) == (21, 21, 1)
    assert stats["rounds_ms"] == [2.0] * 7
    assert (result["rounds"], result["burst"], result["threads"], result["clock"]) == (7, 4, 1, "perf_counter_ns")
    assert result["contention"]["clean_fraction"] == 1.0
    assert result["contention"]["involuntary_switches"] == 0
    assert clock.slept == []
    json.dumps(result, allow_nan=False)


def test_statistics_by_hand(clock: FakeTime) -> None:
    # One warm-up, then per round one untimed call and samples of 1, 2, 3, 4 ms.
    times = [5, *([9, 1, 2, 3, 4] * 5)]
    stats = measure({"a": clock.call("a", lambda i: times[i] * MS)}, rounds=5, burst=5, warmup=1)["candidates"]["a"]
    assert stats["p50_ms"] == 2.5
    assert stats["min_ms"] == 1.0
    assert stats["p90_ms"] == 4.0
    # sorted: 1×5 2×5 3×5 4×5; quartiles at places 4.75 and 14.25
    assert stats["iqr_ms"] == pytest.approx((3 + 0.25) - (1 + 0.75))
    assert stats["rounds_ms"] == [2.5] * 5


def test_interrupted_samples_do_not_count(clock: FakeTime) -> None:
    call = clock.call("a", lambda _: MS, wait=lambda i: 50 * MS if i % 2 else 0)
    result = measure({"a": call}, rounds=10, burst=5)
    stats = result["candidates"]["a"]
    assert stats["p50_ms"] == stats["p90_ms"] == 1.0
    assert stats["repeats"] == 40
    assert stats["clean"] == 20
    assert result["contention"]["clean_fraction"] == 0.5
    assert result["contention"]["involuntary_switches"] == 25  # the untimed calls' too


@pytest.mark.parametrize(("wait", "clean"), [(0.05, True), (0.0501, False)])
def test_what_is_clean(clock: FakeTime, wait: float, clean: bool) -> None:
    call = clock.call("a", lambda _: MS, wait=lambda _: wait * MS)
    if clean:
        assert measure({"a": call})["candidates"]["a"]["p50_ms"] == pytest.approx(1 + wait)
    else:
        with pytest.raises(MeasurementRefused):
            measure({"a": call})


def test_refuses_with_the_numbers(clock: FakeTime) -> None:
    quiet = clock.call("quiet", lambda _: MS)
    busy = clock.call("busy", lambda _: MS, wait=lambda i: MS if i % 5 else 0)
    with pytest.raises(
        MeasurementRefused, match=r"20% of the samples of 'busy'.*30% are needed.*last of 4 attempts"
    ) as caught:
        measure({"quiet": quiet, "busy": busy}, warmup=5, burst=6, attempts=4)
    assert "clean_fraction 0.6" in str(caught.value)
    assert [pause for pause in clock.slept if pause >= 1] == [1, 4, 9]
    rests = [rest for rest in clock.slept if rest < 1]
    assert rests
    assert rests[-1] > rests[0] > 0  # ever longer rests between bursts


def test_nothing_clean_is_refused_even_if_nothing_is_asked_for(clock: FakeTime) -> None:
    with pytest.raises(MeasurementRefused):
        measure({"a": clock.call("a", lambda _: MS, wait=lambda _: MS)}, min_clean=0.0)


def test_a_disturbed_attempt_leaves_no_trace(clock: FakeTime) -> None:
    # The first attempt takes 3 + 5·5 calls, all disturbed and slow; then the device is quiet.
    call = clock.call("a", lambda i: 3 * MS if i < 28 else MS, wait=lambda i: MS if i < 28 else 0)
    result = measure({"a": call}, rounds=5, burst=5)
    assert [pause for pause in clock.slept if pause >= 1] == [1]
    assert result["candidates"]["a"]["p50_ms"] == 1.0
    assert result["candidates"]["a"]["clean"] == result["candidates"]["a"]["repeats"] == 20
    assert result["contention"]["involuntary_switches"] == 0


def test_rounds_without_a_clean_sample(clock: FakeTime) -> None:
    # One warm-up call, then rounds of 2 calls; rounds 1 and 3 are disturbed.
    call = clock.call("a", lambda _: MS, wait=lambda i: MS if (i - 1) // 2 in (1, 3) else 0)
    stats = measure({"a": call}, rounds=6, burst=2, warmup=1)["candidates"]["a"]
    assert stats["rounds_ms"] == [1.0, None, 1.0, None, 1.0, 1.0]


def test_with_threads_a_switch_spoils_its_burst(clock: FakeTime) -> None:
    # Worker threads do the work, so that CPU time of this thread says nothing; call 2 of every second burst of 4 waits.
    call = clock.call("a", lambda _: 0, wait=lambda _: 0)

    def work() -> None:
        count = len(clock.log)
        call()
        slow = count > 0 and (count - 1) % 8 == 1
        clock.wall += 3 * MS if slow else MS
        clock.switches += slow

    result = measure({"a": work}, threads=2, rounds=6, burst=4, warmup=1)
    stats = result["candidates"]["a"]
    assert stats["p50_ms"] == stats["p90_ms"] == 1.0
    assert stats["cpu_p50_ms"] is None
    assert stats["clean"] == 9
    assert [time is None for time in stats["rounds_ms"]] == [True, False] * 3
    assert result["threads"] == 2


def test_fast_calls_are_timed_together(clock: FakeTime) -> None:
    stats = measure({"a": clock.call("a", lambda _: 3_000)}, rounds=5, burst=3)["candidates"]["a"]
    assert stats["calls_per_sample"] == 34  # 34 · 3 µs is the first to last 100 µs
    assert stats["p50_ms"] == stats["cpu_p50_ms"] == 0.003
    assert stats["repeats"] == 10
    assert len(clock.log) == 3 + 5 * (1 + 2 * 34)


def test_calls_below_the_clock_resolution(clock: FakeTime) -> None:
    ticks = clock.call("a", lambda i: 1 if i % 50 == 0 else 0)
    stats = measure({"a": ticks}, rounds=5, burst=3)["candidates"]["a"]
    assert stats["calls_per_sample"] == 100_000
    assert stats["p50_ms"] == pytest.approx(1 / 50 / MS)


def test_slow_calls_are_bounded(clock: FakeTime) -> None:
    result = measure({"a": clock.call("a", lambda _: 4_000 * MS)}, max_seconds=30, warmup=1)
    assert (result["rounds"], result["burst"]) == (5, 2)
    assert result["candidates"]["a"]["p50_ms"] == 4000.0
    assert len(clock.log) == 1 + 5 * 2


def test_rounds_end_when_the_time_is_up(clock: FakeTime) -> None:
    # A round is 5 · 400 ms; the burst fits, 15 rounds do (the 15th begins at 28 s), more do not.
    result = measure({"a": clock.call("a", lambda _: 400 * MS)}, max_seconds=30, rounds=100)
    assert (result["rounds"], result["burst"]) == (15, 5)
    assert len(result["candidates"]["a"]["rounds_ms"]) == 15


def test_never_fewer_than_five_rounds(clock: FakeTime) -> None:
    assert measure({"a": clock.call("a", lambda _: MS)}, rounds=1)["rounds"] == 5


def test_rounds_are_interleaved_and_shuffled(clock: FakeTime) -> None:
    def order(seed: int) -> list[tuple[str, ...]]:
        clock.log.clear()
        measure({name: clock.call(name, lambda _: MS) for name in "abc"}, rounds=12, burst=3, warmup=1, seed=seed)
        bursts = clock.log[3:]
        assert all(bursts[i] == bursts[i + 1] == bursts[i + 2] for i in range(0, len(bursts), 3))
        return [tuple(bursts[i : i + 9 : 3]) for i in range(0, len(bursts), 9)]

    first = order(0)
    assert len(first) == 12
    assert all(sorted(names) == ["a", "b", "c"] for names in first)
    assert len(set(first)) > 2
    assert order(0) == first
    assert order(1) != first


def test_the_first_call_of_a_burst_pays_for_the_cold_cache(clock: FakeTime) -> None:
    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            cold = clock.log[-1:] != [name]
            clock.log.append(name)
            clock.wall += 7 * MS if cold else MS
            clock.cpu += 7 * MS if cold else MS

        return run

    stats = measure({"a": call("a"), "b": call("b")})["candidates"]
    # a burst may follow one of the same candidate in the next round; either way only warm calls are timed
    assert [stats[name]["p90_ms"] for name in "ab"] == [1.0, 1.0]


@given(
    factor=st.floats(0.1, 10),
    drift=st.lists(st.floats(0.5, 4), min_size=8, max_size=8),
    seed=st.integers(0, 100),
)
def test_drift_does_not_touch_the_ratio(factor: float, drift: list[float], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = install(patch)
        calls = {
            "anchor": clock.call("anchor", lambda i: 10 * MS * drift[(i - 1) // 3] if i else MS),
            "other": clock.call("other", lambda i: 10 * MS * factor * drift[(i - 1) // 3] if i else MS),
        }
        result = measure(calls, rounds=8, burst=3, warmup=1, seed=seed)
    found = ratio(result, "other", "anchor")
    assert found == pytest.approx({"median": factor, "low": factor, "high": factor}, rel=1e-5)


@given(
    times=st.lists(st.floats(0.5, 2), min_size=5, max_size=8),
    spread=st.floats(0, 0.5),
)
def test_the_interval_of_a_median_holds_it(times: list[float], spread: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = install(patch)
        rounds = len(times)
        call = clock.call("a", lambda i: MS * (times[(i - 1) // 4 % rounds] * (1 + spread * (i % 3))) if i else MS)
        stats = measure({"a": call}, rounds=rounds, burst=4, warmup=1)["candidates"]["a"]
    assert stats["min_ms"] <= stats["low_ms"] <= stats["p50_ms"] * (1 + 1e-9)
    assert stats["p50_ms"] <= stats["high_ms"] * (1 + 1e-9)


def test_the_interval_of_a_median_is_over_rounds(clock: FakeTime) -> None:
    # Half of the rounds take 1 ms, half take 2; whatever happens within a round, samples are not independent.
    call = clock.call("a", lambda i: MS if (i - 1) // 10 % 2 else 2 * MS)
    stats = measure({"a": call}, rounds=10, burst=10, warmup=1)["candidates"]["a"]
    assert (stats["low_ms"], stats["high_ms"]) == (1.0, 2.0)
    steady = measure({"a": clock.call("a", lambda i: MS + i % 2 * MS)}, rounds=10, burst=10, warmup=1)
    narrow = steady["candidates"]["a"]
    assert narrow["low_ms"] >= 1.0
    assert narrow["high_ms"] <= 2.0


def test_more_rounds_narrow_the_interval(clock: FakeTime) -> None:
    def width(rounds: int) -> float:
        noise = np.random.default_rng(0).normal(10, 1, 3 * rounds + 2).tolist()
        call = clock.call("a", lambda i: MS * noise[(i - 1) // 3] if i else MS)
        stats = measure({"a": call}, rounds=rounds, burst=3, warmup=1)["candidates"]["a"]
        return float(stats["high_ms"] - stats["low_ms"])

    assert width(200) < width(20) / 2


def test_a_call_with_a_clock_of_its_own(clock: FakeTime) -> None:
    run = clock.call("a", lambda _: 5 * MS)

    class Timed:
        clock = "cuda_events"

        def __call__(self) -> float:
            run()
            return 2.0 * MS

    result = measure({"a": Timed()}, rounds=5, burst=3, cpu_time=False)
    stats = result["candidates"]["a"]
    assert (stats["p50_ms"], stats["cpu_p50_ms"], result["clock"]) == (2.0, None, "cuda_events")


def test_work_that_is_done_elsewhere_is_judged_by_switches(clock: FakeTime) -> None:
    def work() -> None:
        clock.wall += MS  # this thread waits, and is not preempted

    with pytest.raises(MeasurementRefused):
        measure({"a": work}, attempts=1)
    for settings in ({"cpu_time": False}, {"cpu_time": True, "threads": 2}):
        stats = measure({"a": work}, **settings)["candidates"]["a"]
        assert (stats["p50_ms"], stats["cpu_p50_ms"]) == (1.0, None)


@pytest.mark.parametrize(("share", "clean"), [(0.049, True), (0.051, False)])
def test_where_the_system_tells_it_is_judged_by_waiting(
    clock: FakeTime, monkeypatch: pytest.MonkeyPatch, share: float, clean: bool
) -> None:
    """Being preempted for a moment is not being disturbed; waiting for a processor is, in whatever thread."""
    monkeypatch.setattr(device_runner, "WAKING_NS", 0)
    monkeypatch.setattr(device_runner, "_told", lambda: (clock.switches, share * clock.wall))
    call = clock.call("a", lambda _: 0, wait=lambda _: MS)
    if not clean:
        with pytest.raises(MeasurementRefused):
            measure({"a": call}, threads=2, attempts=1)
        return
    result = measure({"a": call}, threads=2)
    assert result["contention"]["clean_fraction"] == 1.0
    assert result["contention"]["involuntary_switches"] > 0


def test_being_woken_is_not_being_disturbed(clock: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of 0.1 ms, each of whose two threads waits 40 µs until its processor is awake."""
    calls = clock.call("a", lambda _: 0, wait=lambda _: MS // 10)
    monkeypatch.setattr(device_runner, "_told", lambda: (0, 2 * 40_000 * clock.wall // (MS // 10)))
    assert measure({"a": calls}, threads=2)["contention"]["clean_fraction"] == 1.0
    monkeypatch.setattr(device_runner, "_told", lambda: (0, 2 * 60_000 * clock.wall // (MS // 10)))
    with pytest.raises(MeasurementRefused):
        measure({"a": calls}, threads=2, attempts=1)


@pytest.mark.skipif(device_facts.waited_ns() is None, reason="this system does not tell how long threads waited")
def test_waiting_is_seen() -> None:
    """Three threads share one processor: each is ready two thirds of the time, and does not run."""
    told = []

    def work() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread
        barrier.wait()
        end = time.thread_time_ns() + 100 * MS
        while time.thread_time_ns() < end:
            hashlib.sha256(bytes(1 << 20)).digest()  # lets go of the interpreter
        told.append(device_facts.waited_ns())

    barrier = threading.Barrier(3)
    before = device_facts.waited_ns()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert before is not None
    assert max(told) - before > 100 * MS


@pytest.mark.skipif(device_facts.waited_ns() is None, reason="this system does not tell how long threads waited")
def test_threads_that_have_just_ended_do_not_hide_how_long_others_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*listed(path), "0"])  # no thread has this number
    assert device_facts.waited_ns() is not None


def test_what_others_did_is_noted_per_attempt(clock: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    class Load:
        def __init__(self) -> None:
            begun.append(clock.wall)

        def __call__(self) -> dict[str, Any]:
            return {"other_cpus": 0.25 * len(begun)}

    monkeypatch.setattr("hwprune.device_facts.Load", Load)
    call = clock.call("a", lambda _: MS, wait=lambda i: MS if i < 28 else 0)  # the first attempt is disturbed
    result = measure({"a": call}, rounds=5, burst=5)
    assert len(begun) == 2
    assert result["contention"]["other_cpus"] == 0.5


def test_ratio_by_hand() -> None:
    rounds = {"a": [2.0, 4.0, None, 6.0, 8.0, 20.0, 3.0], "b": [1.0, 1.0, 1.0, 2.0, None, 10.0, 3.0]}
    result = {"candidates": {name: {"rounds_ms": times} for name, times in rounds.items()}}
    found = ratio(result, "a", "b")  # over the rounds in which both are known: 2, 4, 3, 2, 1
    assert found["median"] == 2.0
    assert (found["low"], found["high"]) == (1.0, 4.0)
    assert ratio(result, "a", "b") == found
    assert ratio(result, "b", "a")["median"] == 0.5


def test_the_interval_narrows_with_rounds() -> None:
    def width(count: int) -> float:
        times = np.random.default_rng(0).normal(10, 1, count).tolist()
        found = ratio({"candidates": {"a": {"rounds_ms": times}, "b": {"rounds_ms": [10.0] * count}}}, "a", "b")
        assert found["low"] <= found["median"] <= found["high"]
        return found["high"] - found["low"]

    assert width(400) < width(40) / 2


def test_ratio_needs_five_common_rounds() -> None:
    rounds = {"a": [1.0] * 4 + [None] * 4, "b": [1.0] * 8}
    with pytest.raises(MeasurementRefused, match="only 4 rounds"):
        ratio({"candidates": {name: {"rounds_ms": times} for name, times in rounds.items()}}, "a", "b")


def test_switches_are_counted() -> None:
    assert 0 <= device_facts.switches() <= device_facts.switches()
