"""Layers measured alone on a device whose latencies are made up, so that every number of the table is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hwprune import device_runner
from hwprune.errors import MeasurementError
from hwprune.latency import Bench, LatencyTable, key_of, null_model, predict, probe_model, profile_alone, sizes_of
from hwprune.latency import bench as bench_module
from hwprune.latency.bench import PROBES, probe_models, probe_visits, step_from
from hwprune.targets import load_target, runtime_for
from hwprune.targets.connection import LocalConnection

from .fakes import TARGET, FakeConnection, call, conv, fake_bench, linear, operand, relus, residual_network, statistics


def conv_ms(incoming: int, outgoing: int, *, kernel: int = 3, block: int = 16) -> float:
    return 1e-4 * kernel**2 * math.ceil(incoming / block) * block * math.ceil(outgoing / block) * block


def entry_of(table: LatencyTable, layer):
    return next(entry for entry in table.entries if entry.key.identity == key_of(layer).identity)


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 32])
def test_the_channel_block_is_found(block: int) -> None:
    assert step_from(FakeConnection(block).run(probe_visits(probe_models(TARGET), seed=0))) == block


def test_the_channel_block_is_found_though_two_of_three_visits_were_disturbed() -> None:
    replies = list(FakeConnection(16).run(probe_visits(probe_models(TARGET), seed=0)))
    for reply in replies[1:]:
        for name, seen in reply["candidates"].items():
            seen["p50_ms"] *= 1.7 if name == "49" else 1.2
    assert step_from(replies) == 16


def test_a_probe_that_takes_no_time_shows_no_block() -> None:
    connection = FakeConnection()
    connection.milliseconds = lambda model: 0.01
    assert step_from(connection.run(probe_visits(probe_models(TARGET), seed=0))) == 1


def test_a_table_of_a_residual_network() -> None:
    layers = residual_network()
    table = profile_alone(layers, fake_bench(), points=5)
    assert table.channel_step == 16
    # stem, the two 3×3 convolutions together, pool, fc; everything else is fused
    assert [entry.key.op for entry in table.entries] == ["conv", "conv", "mean", "linear"]
    stem, block, pool, fc = table.entries
    assert stem.sizes == ((3,), (16, 32, 48, 64))
    assert block.sizes == ((16, 32, 48, 64), (16, 32, 48, 64))
    assert pool.sizes == ((16, 32, 48, 64),)
    assert fc.sizes == ((16, 32, 48, 64), (10,))
    expected = [[conv_ms(i, o) for o in block.sizes[1]] for i in block.sizes[0]]
    np.testing.assert_allclose(block.latency_ms, expected, rtol=1e-9)
    np.testing.assert_allclose(stem.latency_ms, [[conv_ms(3, o, kernel=5) for o in stem.sizes[1]]], rtol=1e-9)
    np.testing.assert_allclose(pool.latency_ms, 0.5, rtol=1e-9)
    assert (block.repeats == 18).all()
    np.testing.assert_allclose(block.iqr_ms, 0.001 * math.sqrt(2) / 8)


def test_no_more_points_than_asked_for() -> None:
    table = profile_alone(residual_network(256), fake_bench(), points=3)
    assert table.entries[1].sizes == ((16, 128, 256), (16, 128, 256))


def test_the_sum_of_the_table_is_what_the_device_would_take() -> None:
    layers = residual_network()
    table = profile_alone(layers, fake_bench())
    expected = conv_ms(3, 64, kernel=5) + 2 * conv_ms(64, 64) + 0.5 + conv_ms(64, 10, kernel=1)
    prediction = predict(layers, table)
    assert prediction.latency_ms == pytest.approx(expected, rel=1e-9)
    cut = predict(layers, table, {"a": 32, "b": 20})
    expected = conv_ms(3, 32, kernel=5) + 2 * conv_ms(32, 32) + 0.5 + conv_ms(32, 10, kernel=1)
    assert cut.latency_ms == pytest.approx(expected, rel=1e-9)


def test_scale_makes_the_sum_agree_with_the_whole() -> None:
    layers = residual_network()
    raw = profile_alone(layers, fake_bench())
    assert raw.scale == 1.0
    assert raw.scale_source == {"method": "none"}
    by_then = 1.3**PROBES  # the first batch of layers sets the speed
    scaled = profile_alone(layers, fake_bench(slowdown=1.3), dense=relus(15))
    assert predict(layers, scaled).latency_ms == pytest.approx(7.5 * by_then, rel=1e-9)
    assert scaled.scale == pytest.approx(7.5 / predict(layers, raw).latency_ms, rel=1e-9)
    assert scaled.scale_source["measured_ms"] == pytest.approx(7.5 * by_then, rel=1e-9)
    assert scaled.scale_source["sum_ms"] == pytest.approx(predict(layers, raw).latency_ms * by_then, rel=1e-5)


def test_a_machine_that_slows_down_is_corrected_by_the_anchor() -> None:
    layers = residual_network()
    steady = profile_alone(layers, fake_bench())
    drifting = profile_alone(layers, fake_bench(slowdown=1.3))
    for one, other in zip(steady.entries, drifting.entries, strict=True):
        np.testing.assert_allclose(one.latency_ms * 1.3**PROBES, other.latency_ms, rtol=1e-9)
    assert steady.protocol["anchor_drift"] == pytest.approx(0, abs=1e-9)
    assert drifting.protocol["anchor_drift"] == pytest.approx(1.3**3 - 1, abs=1e-3)  # 4 batches


def test_a_layer_never_costs_nothing() -> None:
    x = operand(1, 16, 4, 4)
    free = call("free", "neg", "aten.neg.default", (x,), x)
    bench = fake_bench()
    bench.connection.milliseconds = lambda model: 0.01
    table = profile_alone([free], bench)
    assert table.entries[0].latency_ms.tolist() == [bench_module.LEAST_MS]


def test_layers_of_one_kind_share_an_entry_over_all_their_sizes() -> None:
    image, a, b = operand(1, 3, 8, 8), operand(1, 40, 8, 8, group="a"), operand(1, 96, 8, 8, group="b")
    layers = (conv("one", image, a), conv("two", a, b), conv("three", b, operand(1, 5, 8, 8)))
    table = profile_alone(layers, fake_bench(), points=4)
    (only,) = table.entries
    assert only.sizes == ((3, 16, 40, 96), (5, 16, 40, 96))
    for layer in layers:
        assert not table.lookup(layer, sizes_of(layer)).interpolated


def test_every_width_that_pruning_may_choose_is_covered() -> None:
    image, a = operand(1, 3, 8, 8), operand(1, 40, 8, 8, group="a")
    joined = operand(1, 43, 8, 8, group="a", fixed=3)
    flat = operand(1, 40 * 64, group="a", multiplier=64)
    layers = (
        conv("first", image, a),
        conv("depthwise", a, a, groups=40),
        call("cat", "cat", "aten.cat.default", (image, a), joined, [{"input": 0}, {"input": 1}], 1),
        conv("second", joined, a),
        linear("fc", flat, operand(1, 10)),
    )
    table = profile_alone(layers, fake_bench(), points=3)
    for width in range(1, 41):
        assert predict(layers, table, {"a": width}).latency_ms > 0


def test_progress_names_every_kind_of_layer() -> None:
    seen = []
    profile_alone(residual_network(), fake_bench(), progress=lambda *step: seen.append(step))
    assert seen == [(0, 4, "stem"), (1, 4, "c1"), (2, 4, "pool"), (3, 4, "fc"), (4, 4, "")]


def test_large_models_are_not_all_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "BATCH_BYTES", 4 * 9 * 64 * 64 * 5)
    bench = fake_bench()
    whole = profile_alone(residual_network(), fake_bench())
    parts = profile_alone(residual_network(), bench)
    opened = [len(visit.models) for visit in bench.connection.visits]
    assert len(opened) > 7
    assert max(opened) < 32
    for one, other in zip(whole.entries, parts.entries, strict=True):
        np.testing.assert_allclose(one.latency_ms, other.latency_ms, rtol=1e-9)


def test_a_busy_device_is_an_error_that_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(calls, **settings):
        if "0" in calls:  # not while the channel step is looked for
            raise device_runner.MeasurementRefused("7% of the samples were undisturbed")
        found = {name: statistics([2.0 if name == "64" else 1.0] * 9) for name in calls}
        return {"candidates": found, "clock": "perf_counter_ns", "contention": {"clean_fraction": 1.0}}

    monkeypatch.setattr(device_runner, "measure", refuse)
    connection = LocalConnection(TARGET, null=null_model(), anchor=probe_model(TARGET))
    with pytest.raises(MeasurementError, match="measuring 0: layer stem: 7% of the samples"):
        profile_alone(residual_network(), Bench(TARGET, connection))


def test_the_table_says_where_it_comes_from_and_can_be_read_again(tmp_path: Path) -> None:
    table = profile_alone(residual_network(), fake_bench(8, seed=7), points=4)
    table.save(tmp_path / "t.json")
    again = LatencyTable.load(tmp_path / "t.json")
    assert again.device["cpu"] == "made up"
    assert again.channel_step == 8
    assert again.protocol["points"] == 4
    assert again.protocol["seed"] == 7
    assert again.protocol["null_run_ms"] == pytest.approx(0.01)
    assert {entry.how for entry in again.entries} == {"alone"}
    assert (again.held_out, again.overhead_ms, dict(again.fusion)) == (None, 0.0, {})


def test_on_this_machine() -> None:
    """For real; a busy machine may refuse, and how fast it is does not matter."""
    image, a = operand(1, 3, 16, 16), operand(1, 32, 16, 16, group="a")
    layers = (conv("c1", image, a), conv("c2", a, a), linear("fc", operand(1, 32, group="a"), operand(1, 10)))
    target = load_target("local-onnxruntime")
    try:
        with LocalConnection(target, null=null_model(), anchor=probe_model(target)) as connection:
            table = profile_alone(layers, Bench(target, connection), points=2)
    except MeasurementError:
        pytest.skip("the machine is too busy to measure anything")
    table.check(target, runtime_for(target).fingerprint())
    assert table.channel_step in (1, 2, 4, 8, 16, 32)
    assert predict(layers, table).latency_ms > 0
