"""A real network, profiled on a simulated device whose truth is known: networks never seen must be predicted."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.deploy.export import exported_proto
from hwprune.errors import MeasurementError
from hwprune.latency import LatencyTable, NetworkProfiler, Subject, allowed_widths, in_context, null_model, predict
from hwprune.latency.bench import PROBES, probe_models
from hwprune.latency.curve import Curve
from hwprune.network import trace

from ..deploy.whole_networks import IMAGE, Mixed, conv_bn, lived_in, prepared
from .fakes import TARGET
from .simulated import Noise, Physics, SimulatedDevice

FEW = (19, 19)  # networks: enough for the entries, too few for a curve and for being tested
QUIET = {"noise": 0.0, "drift": 0.0, "disturbed": 0.0}
SCHEMA = json.loads(
    (Path(__file__).parents[2] / "latency_tables" / "schema" / "latency-table-2.schema.json").read_text()
)
EXPECTED_FUSION = {  # of the layers of Mixed, by what a device joins to a convolution
    frozenset({"Add", "Relu", "Clip"}): {
        "stem.1", "expand.1", "each.1", "relu", "add", "relu#2", "add#2", "relu#3", "side.1",
    },
    frozenset({"Relu"}): {"stem.1", "relu", "side.1"},
    frozenset({"Sigmoid", "Add"}): {"sigmoid", "add", "add#2"},
    frozenset(): set(),
}  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> Subject:
    ready = prepared(Mixed)
    return Subject(
        layers=ready.network.layers,
        channels=ready.channels,
        frozen={group.name: group.channels for group in ready.network.frozen},
        build=ready.made.at,
        covers=ready.made.covers,
        null=null_model(),
        probes=probe_models(TARGET),
    )


@pytest.fixture(scope="module")
def device(subject: Subject) -> Callable[..., SimulatedDevice]:
    def make(physics: Physics | None = None, *, kernels: bool = True, seed: int = 0, **noise: Any) -> SimulatedDevice:
        ends = {"null": subject.null, "anchor": subject.anchor}
        return SimulatedDevice(physics or Physics(), noise=Noise(**noise), kernels=kernels, seed=seed, **ends)

    return make


def profiled(subject: Subject, device: SimulatedDevice, *, seed: int = 0, **settings: Any) -> LatencyTable:
    return NetworkProfiler(subject, TARGET, seed=seed).live(device, **settings)


def unseen(subject: Subject, step: int, count: int = 25) -> list[dict[str, int]]:
    rng = random.Random("not one that profiling draws")
    return [
        {group: rng.choice(allowed_widths(channels, step)) for group, channels in subject.channels.items()}
        for _ in range(count)
    ]


def speed(subject: Subject, device: SimulatedDevice, table: LatencyTable) -> float:
    """How much slower than in truth the device was at the speed that the table stands for."""
    return float(table.protocol["anchor_ms"] / device.physics.latency_ms(subject.anchor))


def errors(subject: Subject, device: SimulatedDevice, table: LatencyTable) -> np.ndarray:
    """Relative errors on unseen networks."""
    slower = speed(subject, device, table)
    found = []
    for widths in unseen(subject, table.channel_step):
        true = slower * device.physics.latency_ms(subject.build(widths))
        found.append(abs(predict(subject.layers, table, {**subject.frozen, **widths}).latency_ms / true - 1))
    return np.array(found)


@pytest.mark.parametrize(("block", "seed"), [(8, 0), (16, 0), (16, 1)])
def test_unseen_networks_are_predicted_and_the_table_says_how_well(subject, device, block: int, seed: int) -> None:
    clock = device(Physics(block), seed=seed)
    table = profiled(subject, clock, seed=seed)
    off = errors(subject, clock, table)
    assert table.channel_step == block
    assert np.median(off) < 0.01
    assert off.max() < 0.04
    stated = table.held_out.errors
    assert len(stated) == table.protocol["networks"] - 32
    assert np.median(stated) == pytest.approx(np.median(off), abs=0.005)
    assert table.held_out.p90 == pytest.approx(np.quantile(off, 0.9), abs=0.02)
    assert predict(subject.layers, table, {**subject.frozen, **subject.channels}).uncertainty == table.held_out.p90


@pytest.mark.parametrize(
    "settings",
    [
        {"bias_ms": 0.02},  # five times what a small kernel takes
        {"bias_ms": 0.0, "stretch": 1.0},
        {"noise": 0.02},
        {"drift": 0.2},
        {"disturbed": 0.6},
    ],
    ids=str,
)
def test_neither_profiler_nor_drift_nor_disturbance_spoils_it(subject, device, settings: dict[str, float]) -> None:
    clock = device(**settings)
    off = errors(subject, clock, profiled(subject, clock, networks=(32, 32)))
    assert np.median(off) < 0.015
    assert off.max() < 0.05


def test_without_any_noise_it_is_all_but_exact(subject, device) -> None:
    clock = device(**QUIET)
    table = profiled(subject, clock)
    assert errors(subject, clock, table).max() < 0.005
    assert table.overhead_ms == pytest.approx(0.02)
    assert table.protocol["kernel_bias_ms"] == pytest.approx(0.004 / 1.06, rel=0.02)
    assert table.protocol["kernel_scale"] == pytest.approx(1 / 1.06, rel=0.01)
    assert table.protocol["anchor_drift"] == 0
    assert table.held_out.errors.max() < 0.005


@pytest.mark.parametrize("joins", EXPECTED_FUSION, ids=lambda joins: "+".join(sorted(joins)) or "nothing")
def test_fusion_is_observed_not_assumed(subject, device, joins: frozenset[str]) -> None:
    clock = device(Physics(joins=joins))
    table = profiled(subject, clock, networks=FEW)
    parts = predict(subject.layers, table, {**subject.frozen, **subject.channels}).per_layer
    fused = {layer.name for layer in parts if layer.source.startswith("fused into")}
    folded = {layer.name for layer in subject.layers if layer.op == "batch_norm"}
    assert fused == EXPECTED_FUSION[joins] | folded
    assert np.median(errors(subject, clock, table)) < 0.015


def test_every_layer_gets_what_its_kernels_take(subject, device) -> None:
    clock = device(**QUIET)
    table = profiled(subject, clock, networks=FEW)
    widths = unseen(subject, 16, 1)[0]
    true: dict[str, float] = {}
    home: dict[str, str] = {}  # a change of layout is told as covering what the kernel did last
    for kernel in clock.physics.kernels(subject.build(widths)):
        layers = [subject.covers[node] for node in kernel.covers if node in subject.covers]
        owner = home.get(layers[0], layers[0]) if layers else "nobody"
        home.update(dict.fromkeys(layers, owner))
        true[owner] = true.get(owner, 0.0) + kernel.ms
    parts = predict(subject.layers, table, {**subject.frozen, **widths}).per_layer
    found = {layer.name: layer.latency_ms for layer in parts if not layer.source.startswith("fused")}
    assert found.keys() == true.keys() - {"nobody"}
    spread = sum(true.values()) / (sum(true.values()) - true["nobody"])
    for name, latency_ms in found.items():
        assert latency_ms == pytest.approx(true[name] * spread, rel=0.1, abs=0.0003), name
    assert sum(found.values()) == pytest.approx(sum(true.values()), rel=0.005)


def test_time_that_belongs_to_no_layer_is_in_the_sum_and_told(subject, device) -> None:
    clock = device(Physics(lost_ms=0.02))
    table = profiled(subject, clock, networks=FEW)
    assert 0.05 < table.protocol["unattributed"] < 0.25
    assert np.median(errors(subject, clock, table)) < 0.02


def test_a_network_that_is_more_than_the_sum_of_its_layers(subject, device) -> None:
    """The larger the whole, the slower each layer of it: the table's curve follows, which no entry could."""
    clock = device(Physics(bend=0.15), **QUIET)
    table = profiled(subject, clock, networks=(32, 32))
    bent, straight = errors(subject, clock, table), errors(subject, clock, dataclasses.replace(table, curve=Curve()))
    assert table.curve.exponent > 1.005
    assert np.median(bent) < 0.015
    assert bent.max() < 0.06
    assert bent.mean() < straight.mean()
    assert profiled(subject, device(**QUIET), networks=(32, 32)).curve.exponent == pytest.approx(1.0, abs=0.002)


def test_a_runtime_that_tells_nothing_of_its_kernels(subject, device) -> None:
    clock = device(kernels=False)
    table = profiled(dataclasses.replace(subject, covers={}), clock)
    off = errors(subject, clock, table)
    assert np.median(off) < 0.02
    assert off.max() < 0.08
    assert np.median(table.held_out.errors) == pytest.approx(np.median(off), abs=0.01)
    assert dict(table.fusion) == {}
    assert not {"kernel_bias_ms", "kernel_scale", "unattributed"} & table.protocol.keys()


class Longer(Mixed):
    """Other than Mixed in every width and in depth; its layers are of the same kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.expand2 = nn.Sequential(conv_bn(64, 96, 1), nn.ReLU6())
        self.each2 = nn.Sequential(conv_bn(96, 96, 3, 1, 96), nn.ReLU6())
        self.squeeze2, self.excite2 = nn.Conv2d(96, 16, 1), nn.Conv2d(16, 96, 1)
        self.project2 = conv_bn(96, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.each(self.expand(x))
        x = F.relu(x + self.project(y * self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()))
        y = self.each2(self.expand2(x))
        x = F.relu(x + self.project2(y * self.excite2(F.relu(self.squeeze2(y.mean((2, 3), keepdim=True)))).sigmoid()))
        x = F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding)))
        return self.fc(torch.cat([x, self.side(x)], 1).mean((2, 3)))


def test_a_table_made_for_one_network_serves_another(subject, device) -> None:
    clock = device()
    table = profiled(subject, clock, networks=FEW)
    other = lived_in(Longer())
    true = speed(subject, clock, table) * clock.physics.latency_ms(exported_proto(other, IMAGE).SerializeToString())
    prediction = predict(trace(other, IMAGE).layers, table)
    assert prediction.latency_ms == pytest.approx(true, rel=0.02)
    assert len(prediction.per_layer) > len(subject.layers) + 8


def test_every_width_that_pruning_may_choose_is_covered(subject, device) -> None:
    table = profiled(subject, device(), networks=FEW)
    for width in range(1, 129):
        widths = {name: min(width, count) for name, count in subject.channels.items()}
        assert predict(subject.layers, table, {**subject.frozen, **widths}).latency_ms > table.overhead_ms
    assert all((entry.latency_ms > 0).all() and entry.how == "in context" for entry in table.entries)
    assert all((entry.repeats >= 1).all() and (entry.iqr_ms >= 0).all() for entry in table.entries)


def test_a_network_in_which_nothing_can_be_cut(subject, device) -> None:
    still = dataclasses.replace(
        subject,
        channels={},
        frozen={**subject.frozen, **subject.channels},
        build=lambda widths: subject.build({**subject.channels, **widths}),
    )
    clock = SimulatedDevice(Physics(), null=still.null, anchor=still.anchor)
    table = profiled(still, clock)
    assert table.protocol["networks"] == 1
    assert table.held_out is None
    true = speed(still, clock, table) * clock.physics.latency_ms(still.build({}))
    prediction = predict(subject.layers, table, still.frozen)
    assert prediction.latency_ms == pytest.approx(true, rel=0.01)
    assert prediction.uncertainty is None
    assert prediction.interval_ms is None


def test_measuring_ends_when_unseen_networks_are_predicted_well_enough(subject, device) -> None:
    good, bad = (profiled(subject, one, networks=(48, 64)) for one in (device(**QUIET), device(noise=0.4)))
    assert good.protocol["networks"] == 48
    assert np.median(good.held_out.errors) < 0.01
    assert bad.protocol["networks"] == 64
    assert np.median(bad.held_out.errors) > 0.01
    assert profiled(subject, device(), networks=FEW).held_out is None


def test_networks_that_the_device_was_slow_for_are_visited_again(subject, device) -> None:
    clock = device(drift=0.2)
    profiled(subject, clock, networks=FEW)
    names = [visit.id for visit in clock.visits]
    again = [name for name in names if "again" in name]
    assert again
    assert len(set(names)) == len(names), "a device that goes on where it was would answer with the old reply"
    steady = device(**QUIET)
    profiled(subject, steady, networks=FEW)
    assert len(steady.visits) == PROBES + FEW[0]


def test_the_same_seed_on_the_same_device_gives_the_same_table(subject, device) -> None:
    one, same, other = (profiled(subject, device(), seed=seed, networks=(16, 16)) for seed in (4, 4, 5))
    assert _timeless(one) == _timeless(same)
    assert _timeless(one) != _timeless(other)


def _timeless(table: LatencyTable) -> str:
    return dataclasses.replace(table, protocol={**table.protocol, "measured_at": ""}).to_json()


def test_packed_gives_the_table_that_the_same_replies_give_live(subject, device, monkeypatch) -> None:
    """Where the step turns out to be the one that a kit assumes; a kit's device cannot be visited again."""
    for bound in ("FEWEST_ROUNDS", "MOST_ROUNDS"):
        monkeypatch.setattr(in_context, bound, in_context.ROUNDS)
    live = profiled(subject, device(Physics(8), drift=0.01), networks=(36, 36))
    packed = NetworkProfiler(subject, TARGET).packed(device(Physics(8), drift=0.01), 36)
    assert _timeless(packed) == _timeless(live)


def test_rounds_are_adapted_to_the_speed_of_the_networks(subject, device) -> None:
    clock = device()
    profiled(subject, clock, networks=(36, 36))
    rounds = [visit.rounds for visit in clock.visits[PROBES:]]
    assert set(rounds[: in_context.BATCH]) == {in_context.ROUNDS}
    later = rounds[in_context.BATCH :]
    assert later
    assert all(in_context.FEWEST_ROUNDS <= count <= in_context.MOST_ROUNDS for count in later)
    assert set(later) != {in_context.ROUNDS}


def test_packed_where_the_step_is_another_than_assumed(subject, device) -> None:
    clock = device(Physics(16))
    table = NetworkProfiler(subject, TARGET).packed(clock, FEW[0])
    assert table.channel_step == 16
    assert [visit.id for visit in clock.visits] == [
        visit.id for visit in NetworkProfiler(subject, TARGET).visits(FEW[0])
    ]
    assert np.median(errors(subject, clock, table)) < 0.01


@pytest.mark.parametrize("visits", [0, 1, PROBES, PROBES + 20])
def test_a_device_that_refuses_is_an_error_not_a_table(subject, device, visits: int) -> None:
    clock = SimulatedDevice(Physics(), null=subject.null, anchor=subject.anchor, busy_after=visits)
    with pytest.raises(MeasurementError, match="7% of the samples were clean"):
        profiled(subject, clock)


def test_a_device_that_others_keep_busy_is_refused(subject, device) -> None:
    with pytest.raises(MeasurementError, match=r"other processes kept 1\.9 of the device's 2 processors busy"):
        profiled(subject, device(other_cpus=1.9))
    table = profiled(subject, device(other_cpus=0.3), networks=(16, 16))
    assert table.protocol["other_cpus"] == 0.3


def test_too_few_undisturbed_rounds_are_an_error_that_names_the_network(subject, device) -> None:
    class Disturbed(SimulatedDevice):
        def reply(self, visit):
            found = super().reply(visit)
            if visit.id == "network-5":
                found["candidates"]["network"]["rounds_ms"][4:] = [None] * (visit.rounds - 4)
            return found

    clock = Disturbed(Physics(), null=subject.null, anchor=subject.anchor)
    with pytest.raises(MeasurementError, match="measuring network-5: undisturbed in only 4 rounds"):
        profiled(subject, clock)


def test_progress_counts_networks(subject, device) -> None:
    seen: list[tuple[int, int, str]] = []
    profiled(subject, device(), networks=(20, 24), progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == list(range(1, 25))
    assert {most for _, most, _ in seen} == {24}


def test_the_table_is_one_that_can_be_saved_and_read_again(subject, device, tmp_path: Path) -> None:
    table = profiled(subject, device())
    table.save(tmp_path / "t.json")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads((tmp_path / "t.json").read_text()))
    again = LatencyTable.load(tmp_path / "t.json")
    assert again.to_json() == table.to_json()
    assert again.scale == 1.0
    for widths in unseen(subject, 16, 5):
        everywhere = {**subject.frozen, **widths}
        read, made = (predict(subject.layers, one, everywhere) for one in (again, table))
        assert read.latency_ms == pytest.approx(made.latency_ms, rel=1e-4)
        assert [layer.source for layer in read.per_layer] == [layer.source for layer in made.per_layer]
        assert read.interval_ms[0] < read.latency_ms < read.interval_ms[1]
