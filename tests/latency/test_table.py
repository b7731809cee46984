from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.errors import InputError, MissingLatencyError, TableError
from hwprune.latency import Entry, HeldOut, LatencyTable, Operand, key_of
from hwprune.latency.fusion import Question

from .fakes import DEVICE, TARGET, call, conv, operand

GOLDEN = Path(__file__).with_name("golden.json")
LAYER = conv("c", operand(1, 64, 8, 8, group="a"), operand(1, 100, 8, 8, group="b"))
PROTOCOL = {
    "clock": "perf_counter_ns",
    "rounds": 9,
    "burst": 4,
    "seed": 0,
    "null_run_ms": 0.01,
    "anchor_drift": 0.0,
    "clean_fraction": 1.0,
    "points": 5,
    "networks": 0,
    "measured_at": "2026-11-21T12:00:00+00:00",
    "hwprune": "0.1.0",
}


def entry(
    layer=LAYER, sizes=((16, 64), (16, 48, 100)), latency_ms=((1.0, 3.0, 5.0), (4.0, 12.0, 20.0)), fused=()
) -> Entry:
    values = np.array(latency_ms)
    return Entry(key_of(layer, fused), sizes, values, values * 0.01, np.full(values.shape, 20))


def table(*entries: Entry, step: int = 16) -> LatencyTable:
    return LatencyTable(
        target=TARGET,
        device=DEVICE,
        protocol=PROTOCOL,
        channel_step=step,
        scale=0.5,
        scale_source={"method": "none"},
        entries=entries or (entry(),),
    )


@pytest.mark.parametrize(
    ("sizes", "expected", "interpolated"),
    [
        ((16, 16), 1.0, False),
        ((64, 100), 20.0, False),
        ((16, 32), 2.0, True),  # in the middle of 16 and 48
        ((16, 17), 2.0, True),  # 17 costs what 32 costs
        ((9, 16), 1.0, True),  # below the first edge: rounded up to it
        ((40, 16), 1.0 + 3.0 * (48 - 16) / 48, True),  # 40 → 48, two thirds of the way
        ((40, 17), 2.0 + 6.0 * (48 - 16) / 48, True),  # the rows at 16 and 64 are 2.0 and 8.0
        ((16, 49), 3.0 + 2.0 * 16 / 52, True),  # 49 → 64
        ((16, 99), 5.0, True),  # 99 → 112, but the layer never had more than 100
        ((16, 97), 5.0, True),
        ((16, 96), 3.0 + 2.0 * 48 / 52, True),
    ],
)
def test_lookup(sizes: tuple[int, int], expected: float, interpolated: bool) -> None:
    found = table().lookup(LAYER, sizes)
    assert found.latency_ms == pytest.approx(expected, rel=1e-12)
    assert found.interpolated is interpolated


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((3, 16), 1.0),
        ((8, 16), 1.0 + 3.0 * 5 / 13),  # below the step and within the entry: between 3 and 16
        ((15, 16), 1.0 + 3.0 * 12 / 13),
        ((17, 16), 4.0 + 6.0 * 16 / 48),  # as ever: 32
    ],
)
def test_counts_below_the_step_are_not_rounded_where_the_entry_lists_some(sizes, expected) -> None:
    small = table(entry(sizes=((3, 16, 64), (16,)), latency_ms=((1.0,), (4.0,), (10.0,))))
    assert small.lookup(LAYER, sizes).latency_ms == pytest.approx(expected, rel=1e-12)


def test_what_is_fused_into_a_layer_is_part_of_its_key() -> None:
    plain, joined = entry(), entry(fused=("relu",), latency_ms=((2.0, 6.0, 10.0), (8.0, 24.0, 40.0)))
    both = table(plain, joined)
    assert both.lookup(LAYER, (16, 16)).latency_ms == 1.0
    assert both.lookup(LAYER, (16, 16), ("relu",)).latency_ms == 2.0


def test_a_layer_measured_with_other_operators_fused_is_taken_to_cost_the_same() -> None:
    """Of several, the entry that rests on most measurements."""
    few, many = (
        dataclasses.replace(entry(fused=chain, latency_ms=np.full((2, 3), ms)), repeats=np.full((2, 3), repeats))
        for chain, ms, repeats in ((("relu",), 2.0, 20), (("add", "relu"), 3.0, 90))
    )
    for entries in ((few, many), (many, few)):
        assert table(*entries).lookup(LAYER, (16, 16), ("hardswish",)).latency_ms == 3.0
        assert table(*entries).lookup(LAYER, (16, 16), ("relu",)).latency_ms == 2.0


def test_lookup_knows_a_layer_by_its_key_not_its_name() -> None:
    assert table().lookup(dataclasses.replace(LAYER, name="other"), (16, 16)).latency_ms == 1.0


@pytest.mark.parametrize(("sizes", "axis"), [((65, 16), "in_channels of 65"), ((16, 101), "out_channels of 101")])
def test_above_the_sampled_range(sizes: tuple[int, int], axis: str) -> None:
    with pytest.raises(MissingLatencyError, match=f"layer c: {axis} is outside what was measured") as caught:
        table().lookup(LAYER, sizes)
    assert "hwprune profile --model MODEL --input-shape SHAPE --target fake" in caught.value.hint


def test_below_the_sampled_range() -> None:
    fixed = table(entry(sizes=((32,), (16, 100)), latency_ms=((1.0, 2.0),)))
    with pytest.raises(MissingLatencyError, match=r"in_channels of 16 is outside what was measured \(32\)"):
        fixed.lookup(LAYER, (16, 16))


@pytest.mark.parametrize("size", [0, -1])
def test_no_channels(size: int) -> None:
    with pytest.raises(InputError, match=f"layer c would have {size} channels"):
        table().lookup(LAYER, (16, size))


def test_an_unknown_layer_names_the_nearest_entries() -> None:
    with pytest.raises(MissingLatencyError) as caught:
        table().lookup(conv("other", *LAYER.inputs, LAYER.output, stride=2), (16, 16))
    assert (
        "layer other: the latency table has no entry for conv {kernel: [3, 3], stride: [2, 2]" in caught.value.message
    )
    assert "nearest: conv {kernel: [3, 3], stride: [1, 1]" in caught.value.message
    assert "--threads 1 --precision fp32 --batch 1" in caught.value.hint
    pool = call("p", "mean", "aten.mean.dim", (LAYER.output,), operand(1, 100, group="b"), {"input": 0}, [2, 3])
    with pytest.raises(MissingLatencyError, match="no entry for mean"):
        table().lookup(pool, (100,))


def test_an_empty_table_says_so() -> None:
    empty = dataclasses.replace(table(), entries=())
    with pytest.raises(MissingLatencyError, match="it has no entries at all"):
        empty.lookup(LAYER, (16, 16))


def test_operators_without_channels_have_one_number() -> None:
    layer = call("s", "mean", "aten.mean.default", (operand(1, 3, 8, 8),), Operand(()))
    single = table(entry(layer, (), 0.25))
    assert single.lookup(layer, ()).latency_ms == 0.25
    assert "0.25" in single.to_json()


@given(st.data())
def test_grid_is_lookup_for_every_pair(data: st.DataObject) -> None:
    step = data.draw(st.sampled_from([1, 4, 16]))
    axes = tuple(tuple(sorted(data.draw(st.sets(st.integers(1, 130), min_size=1, max_size=5)))) for _ in range(2))
    shape = tuple(map(len, axes))
    values = np.arange(1.0, math.prod(shape) + 1).reshape(shape) ** 1.5
    subject = table(entry(sizes=axes, latency_ms=values), step=step)
    wanted = tuple(data.draw(st.lists(st.integers(axis[0], axis[-1]), min_size=1, max_size=4)) for axis in axes)
    found, interpolated = subject.grid(LAYER, wanted)
    for (i, first), (j, second) in itertools.product(*map(enumerate, wanted)):
        single = subject.lookup(LAYER, (first, second))
        assert found[i, j] == single.latency_ms
        assert interpolated[i, j] == single.interpolated
        assert interpolated[i, j] == (first not in axes[0] or second not in axes[1])
        assert values.min() <= single.latency_ms <= values.max()
        # Reading the four surrounding measurements by hand gives the same.
        assert single.latency_ms == pytest.approx(_by_hand(values, axes, (first, second), step), rel=1e-9)


def _by_hand(values: np.ndarray, axes: tuple, sizes: tuple[int, int], step: int) -> float:
    corners = []
    for grid, size in zip(axes, sizes, strict=True):
        if size not in grid and not grid[0] <= size < step:
            size = min(math.ceil(size / step) * step, grid[-1])
        high = next(i for i, count in enumerate(grid) if count >= size)
        low = high if grid[high] == size else high - 1
        share = 1.0 if low == high else (size - grid[low]) / (grid[high] - grid[low])
        corners.append(((low, 1 - share), (high, share)))
    return sum(values[i, j] * a * b for (i, a), (j, b) in itertools.product(*corners))


def test_golden_file() -> None:
    """What is on disk today must be read, and written, the same for ever: other people's tables are in this form."""
    golden = LatencyTable.load(GOLDEN)
    assert golden.to_json() == GOLDEN.read_text(encoding="utf-8")
    assert golden.lookup(LAYER, (16, 48)).latency_ms == 3.0
    assert golden.target == TARGET
    assert golden.channel_step == 16
    assert golden.scale == 0.5
    assert golden.overhead_ms == 0.0025
    assert golden.held_out == HeldOut((1.02, 2.0, 3.9), (1.0, 2.1, 3.9))
    assert [entry.how for entry in golden.entries] == ["alone", "alone", "in context", "alone"]
    asked = Question("relu", "conv", 4, ("batch_norm",))
    assert golden.fusion == {asked: True, dataclasses.replace(asked, op="silu"): False}
    assert golden.protocol["networks"] == 48


def test_round_trip(tmp_path: Path) -> None:
    table().save(tmp_path / "t.json")
    again = LatencyTable.load(tmp_path / "t.json")
    assert again.to_json() == table().to_json()
    assert again.lookup(LAYER, (40, 17)) == table().lookup(LAYER, (40, 17))


def test_round_trip_of_what_was_seen_in_networks(tmp_path: Path) -> None:
    seen = dataclasses.replace(
        table(dataclasses.replace(entry(fused=("add", "relu")), how="in context")),
        overhead_ms=0.0123,
        held_out=HeldOut((1.5, 2.25), (1.25, 2.5)),
        fusion={Question("add", "conv", 4, ("batch_norm",)): True, Question("mul/broadcast", "conv", 4): False},
    )
    seen.save(tmp_path / "t.json")
    again = LatencyTable.load(tmp_path / "t.json")
    assert again.to_json() == seen.to_json()
    assert (again.overhead_ms, again.held_out, again.fusion) == (0.0123, seen.held_out, seen.fusion)
    assert (again.entries[0].how, again.entries[0].key.fused) == ("in context", ("add", "relu"))


def test_errors_on_unseen_networks() -> None:
    held_out = HeldOut((1.1, 1.9, 4.0, 8.0), (1.0, 2.0, 4.0, 10.0))
    np.testing.assert_allclose(held_out.errors, (0.1, 0.05, 0.0, 0.2))
    assert held_out.p90 == pytest.approx(0.17)
    assert str(held_out) == ("4 unseen networks: error 7.5 % median, 17.0 % at the 90th percentile, 20.0 % at worst")


def test_saving_in_a_folder_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        table().save(tmp_path / "absent" / "t.json")
    assert list(tmp_path.iterdir()) == []


def test_the_same_target_and_device_pass() -> None:
    table().check(dataclasses.replace(TARGET, name="other name"), dict(DEVICE, os="another system"))
    table().check(TARGET, None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"precision": "int8"}, r"precision fp32 \(asked for: int8\)"),
        ({"threads": 4}, r"threads 1 \(asked for: 4\)"),
        ({"batch": 8}, r"batch 1 \(asked for: 8\)"),
        ({"runtime": "tensorrt"}, r"runtime onnxruntime \(asked for: tensorrt\)"),
    ],
)
def test_another_target_is_refused(change: dict, sentence: str) -> None:
    with pytest.raises(TableError, match=f"the latency table was measured for {sentence}"):
        table().check(dataclasses.replace(TARGET, **change), None)


def test_another_device_is_refused_with_everything_that_differs() -> None:
    with pytest.raises(TableError) as caught:
        table().check(dataclasses.replace(TARGET, threads=2), dict(DEVICE, cpu="another", runtime_version="1.3.0"))
    assert "threads 1 (asked for: 2)" in caught.value.message
    assert "a device whose cpu is made up (here: another)" in caught.value.message
    assert "a device whose runtime_version is 1.2.3 (here: 1.3.0)" in caught.value.message
