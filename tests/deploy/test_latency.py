import json

import pytest

from hwprune import device_runner
from hwprune.deploy import measure_one, measure_pair
from hwprune.errors import InputError, MeasurementError
from hwprune.targets import Target, load_target


def stats(rounds):
    return {
        "p50_ms": rounds[0],
        "p90_ms": 3.0,
        "min_ms": 0.5,
        "iqr_ms": 0.1,
        "cpu_p50_ms": None,
        "repeats": 80,
        "clean": 79,
        "rounds_ms": rounds,
        "calls_per_sample": 1,
    }


@pytest.fixture
def clock(monkeypatch):
    """A clock that runs each call once and shows what it is told to."""
    seen = {}

    def measure(calls, **settings):
        for call in calls.values():
            call()
        seen.update(names=list(calls), **settings)
        rounds = {"baseline": [2.0, 4.0, 2.0, 2.0, 8.0, None], "candidate": [1.0, 2.0, 1.0, 1.0, 4.0, 1.0]}
        return {
            "candidates": {name: stats(rounds.get(name.partition(",")[0], [1.5])) for name in calls},
            "clock": "perf_counter_ns",
            "contention": {"clean_fraction": 0.9},
        }

    monkeypatch.setattr(device_runner, "measure", measure)
    return seen


def test_pair_is_measured_in_one_go_and_compared_by_round(clock, exported):
    target = load_target("local-onnxruntime", threads=2)
    pair = measure_pair(exported["Residual"], exported["Mobile"].read_bytes(), target, rounds=7, burst=4, seed=3)
    openings = [f"{name}, opening {i}" for i in range(3) for name in ("baseline", "candidate")]
    settings = {"threads": 2, "cpu_time": True, "rounds": 7, "burst": 4, "seed": 3}
    assert clock["names"] == ["null", "anchor", *openings]
    assert {name: clock[name] for name in settings} == settings
    assert (pair.ratio, pair.ratio_low, pair.ratio_high) == (0.5, 0.5, 0.5)  # whatever the drift between rounds
    assert (pair.baseline.p50_ms, pair.candidate.p50_ms, pair.candidate.clean) == (2.0, 1.0, 3 * 79)
    json.dumps(pair.to_dict(), allow_nan=False)


def test_an_opening_that_is_slow_by_its_place_in_memory_does_not_decide(exported, monkeypatch):
    def measure(calls, **settings):
        times = {"opening 0": 1.0, "opening 1": 1.2, "opening 2": 1.01}
        return {
            "candidates": {name: stats([times.get(name.rpartition(", ")[2], 0.01)]) for name in calls},
            "clock": "perf_counter_ns",
            "contention": {},
        }

    monkeypatch.setattr(device_runner, "measure", measure)
    assert measure_one(exported["UNet"], load_target("local-onnxruntime")).latency.p50_ms == 1.01


def test_one(clock, exported):
    result = measure_one(exported["UNet"], load_target("local-onnxruntime"))
    assert clock["names"] == ["null", "anchor", "engine, opening 0", "engine, opening 1", "engine, opening 2"]
    assert result.latency.p50_ms == 1.5
    assert result.contention == {"clean_fraction": 0.9}


def test_busy_device_is_an_error_with_its_numbers(exported, monkeypatch):
    def refuse(calls, **settings):
        raise device_runner.MeasurementRefused("3% of the samples were undisturbed")

    monkeypatch.setattr(device_runner, "measure", refuse)
    with pytest.raises(MeasurementError, match="3% of the samples") as caught:
        measure_one(exported["UNet"], load_target("local-onnxruntime"))
    assert caught.value.hint


def test_too_few_common_rounds_is_an_error_too(exported, monkeypatch):
    def measure(calls, **settings):
        return {
            "candidates": {name: stats([1.0, None]) for name in calls},
            "clock": "perf_counter_ns",
            "contention": {},
        }

    monkeypatch.setattr(device_runner, "measure", measure)
    with pytest.raises(MeasurementError):
        measure_pair(exported["UNet"], exported["UNet"], load_target("local-onnxruntime"))


def test_device_out_of_reach(exported):
    with pytest.raises(InputError, match="'pi' cannot be measured from here") as caught:
        measure_one(exported["UNet"], Target(name="pi", connection="none"))
    assert "hwprune bench" in caught.value.hint


def test_not_a_model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(InputError, match="onnxruntime cannot open"):
        measure_one(path, load_target("local-onnxruntime"))


def test_the_real_clock(exported):
    try:
        pair = measure_pair(exported["UNet"], exported["UNet"], load_target("local-onnxruntime"), rounds=5)
    except MeasurementError as error:
        pytest.skip(str(error))
    for latency in (pair.baseline, pair.candidate):
        assert 0 < latency.min_ms <= latency.p50_ms <= latency.p90_ms
        assert 0 < latency.clean <= latency.repeats
    assert 0 < pair.ratio_low <= pair.ratio <= pair.ratio_high
