"""From a torch model to its latency table, over whatever way there is to the device."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from hwprune import device_runner, verbs
from hwprune.deploy import profiling
from hwprune.errors import InputError, MeasurementError
from hwprune.latency import LatencyTable, NetworkProfiler, fused_into, predict
from hwprune.latency.bench import PROBES
from hwprune.targets import Target, load_target, runtime_for
from hwprune.targets.connection import Connection, Visit

from ..latency.fakes import DEVICE, FakeConnection
from ..latency.simulated import Noise, Physics, SimulatedDevice
from .whole_networks import IMAGE, Little, Mixed, Prepared, prepared

LOCAL = Target(name="here")
AWAY = Target(name="island", connection="none")


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Its graph at any widths was made before."""
    ready = prepared(Mixed)
    monkeypatch.setattr(profiling, "template", lambda model, example, network, precision, seed: ready.made)
    return ready


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Connections that were made to a simulated device."""
    made: list[Any] = []

    class Watched(SimulatedDevice):
        closed = False

        def close(self) -> None:
            self.closed = True

    def connect(target: Target, *, null: bytes, anchor: bytes) -> Connection:
        made.append(Watched(Physics(), null=null, anchor=anchor))
        return made[-1]

    monkeypatch.setattr(profiling, "connect", connect)
    return made


def few_networks(count: int = 20) -> Any:
    return mock.patch.dict(NetworkProfiler.live.__kwdefaults__, {"networks": (count, count)})


def test_in_context(mixed: Prepared, reached: list[Any]) -> None:
    steps: list[tuple[int, int, str]] = []
    with few_networks():
        table = profiling.profile_model(
            mixed.model, IMAGE, mixed.network, LOCAL, seed=3, progress=lambda *step: steps.append(step)
        )
    (device,) = reached
    assert device.closed
    assert table.target == LOCAL
    assert table.device == DEVICE
    assert table.protocol["seed"] == 3
    assert {entry.how for entry in table.entries} == {"in context"}
    assert len(steps) == 20
    assert len(device.visits) >= PROBES + 20
    slower = table.protocol["anchor_ms"] / device.physics.latency_ms(mixed.made.at(_half(mixed)))
    true = slower * device.physics.latency_ms(mixed.made.at(mixed.channels))
    assert predict(mixed.network.layers, table).latency_ms == pytest.approx(true, rel=0.02)


def _half(ready: Prepared) -> dict[str, int]:
    return {name: min(count, -(-count // 2 // 16) * 16) for name, count in ready.channels.items()}


def test_a_device_that_fails_is_left_clean(
    mixed: Prepared, reached: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, visit: Visit) -> dict[str, Any]:
        raise MeasurementError("too busy", hint="wait")

    monkeypatch.setattr(SimulatedDevice, "reply", refuse)
    with pytest.raises(MeasurementError, match="too busy"):
        profiling.profile_model(mixed.model, IMAGE, mixed.network, LOCAL)
    assert reached[0].closed


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeConnection(4)
    monkeypatch.setattr(profiling, "connect", lambda target, *, null, anchor: device)
    ready = prepared(Little)
    table = profiling.profile_model(ready.model, IMAGE, ready.network, LOCAL, method="alone", points=3)
    assert {entry.how for entry in table.entries} == {"alone"}
    assert (table.protocol["points"], table.protocol["networks"]) == (3, 0)
    assert table.channel_step == 4
    assert table.scale_source["method"] == "dense network end to end"
    assert predict(ready.network.layers, table).latency_ms == pytest.approx(table.scale_source["measured_ms"], rel=1e-4)


def test_the_verb_and_its_prediction(mixed: Prepared, reached: list[Any], tmp_path: Path) -> None:
    with few_networks():
        table = verbs.profile(mixed.model, input_shape=(1, 3, 16, 16), target=LOCAL)
    table.save(tmp_path / "t.json")
    prediction = verbs.predict(mixed.model, input_shape=(1, 3, 16, 16), table=tmp_path / "t.json")
    assert prediction.latency_ms == pytest.approx(predict(mixed.network.layers, table).latency_ms, rel=1e-4)
    assert prediction.overhead_ms == pytest.approx(table.overhead_ms, rel=1e-4)
    with pytest.raises(InputError, match="cannot be measured from here"):
        verbs.profile(mixed.model, input_shape=(1, 3, 16, 16), target=AWAY)


def carried(kit: Path, folder: Path, *, seed: int = 0) -> Path:
    """What a simulated device makes of a kit."""
    with tarfile.open(kit) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    job = json.loads((root / "job.json").read_text())
    lines = [{"fingerprint": DEVICE, "schema_version": 1}]
    for asked in job["visits"]:
        ends = {name: (root / asked[name]).read_bytes() for name in ("null", "anchor")}
        settings = {
            key: asked[key] for key in ("id", "rounds", "burst", "attempts", "max_seconds", "min_clean", "seed")
        }
        models = {name: (root / file).read_bytes() for name, file in asked["models"].items()}
        visit = Visit(models=models, instrumented=tuple(asked["instrumented"]), **settings)
        lines.append(SimulatedDevice(Physics(), noise=Noise(drift=0.02), seed=seed, **ends).reply(visit))
    results = folder / "results.jsonl"
    results.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return results


def test_a_kit_goes_and_a_table_comes_back(mixed: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "PACKED_NETWORKS", 24)
    asked = (mixed.model, IMAGE, mixed.network, AWAY)
    count = profiling.pack_model(*asked, tmp_path / "kit.tar", seed=5)
    assert count == PROBES + 24
    results = carried(tmp_path / "kit.tar", tmp_path / "stick")
    assert len(results.read_text().splitlines()) == 1 + count
    table = profiling.unpack_model(*asked, results, seed=5)
    assert table.protocol["networks"] == 24
    assert table.target == AWAY
    physics = Physics()
    slower = table.protocol["anchor_ms"] / physics.latency_ms(mixed.made.at(_half(mixed)))
    for seed in range(5):
        widths = mixed.widths(seed)
        found = predict(mixed.network.layers, table, {**mixed.network.dense_widths, **widths}).latency_ms
        assert found == pytest.approx(slower * physics.latency_ms(mixed.made.at(widths)), rel=0.04)
    with pytest.raises(InputError, match=r"the answer is about .*, and .* was asked for"):
        profiling.unpack_model(*asked, results, seed=6)  # other networks


def test_a_kit_that_cannot_be_written(mixed: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "PACKED_NETWORKS", 1)
    with pytest.raises(InputError, match=r"cannot write .*absent.*No such file"):
        profiling.pack_model(mixed.model, IMAGE, mixed.network, AWAY, tmp_path / "absent" / "kit.tar", seed=0)


def test_nodes_are_asked_for_only_where_the_runtime_tells(mixed: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    telling = profiling.subject_of(mixed.model, IMAGE, mixed.network, LOCAL)
    assert telling.covers == mixed.made.covers
    silent = SimpleNamespace(model_format="onnx", kernels=False, name="silent")
    monkeypatch.setattr(profiling, "runtime_for", lambda target: silent)
    subject = profiling.subject_of(mixed.model, IMAGE, mixed.network, LOCAL)
    assert subject.covers == {}
    visits = list(NetworkProfiler(subject, LOCAL).visits(2))
    assert all(visit.instrumented == () for visit in visits)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_layers_alone_are_not_measured_in_lower_precisions(precision: str) -> None:
    ready, target = prepared(Little), Target(name="t", precision=precision)
    with pytest.raises(InputError, match="layers alone are measured in fp32") as caught:
        profiling.profile_model(ready.model, IMAGE, ready.network, target, method="alone")
    assert "in-context" in caught.value.hint


@pytest.mark.parametrize(
    "target", [Target(name="torch", runtime="torch"), Target(name="int8", runtime="onnxruntime", precision="int8")]
)
def test_what_is_built_is_what_the_runtime_runs(target: Target) -> None:
    """Every kernel belongs to a layer, every layer with weights has kernels, at any widths."""
    ready = prepared(Mixed)
    subject = profiling.subject_of(ready.model, IMAGE, ready.network, target)
    weighty = {layer.name for layer in subject.layers if layer.op in ("conv", "linear")}
    for widths in (ready.channels, ready.widths(3)):
        engine = runtime_for(target).open(subject.build(widths), target, instrumented=True)
        call = engine.bind(device_runner.example_feeds(engine))
        for _ in range(3):
            call()
        kernels = engine.kernels()
        engine.close()
        owners = [{subject.covers.get(node) for node in kernel["covers"]} for kernel in kernels]
        assert None not in set().union(*owners)
        assert weighty <= set().union(*owners)
        assert all(len(weighty & one) <= 1 for one in owners)


def test_on_this_machine(mixed: Prepared) -> None:
    """For real, six networks; a busy machine may refuse, and how fast it is does not matter."""
    target = load_target("local-onnxruntime")
    try:
        with few_networks(6):
            table = profiling.profile_model(mixed.model, IMAGE, mixed.network, target)
    except MeasurementError:
        pytest.skip("the machine is too busy to measure anything")
    table.check(target, runtime_for(target).fingerprint())
    layers = mixed.network.layers
    seen, known = fused_into(layers, table.fuses), fused_into(layers, runtime_for(target))
    # An addition joins a convolution only where its other operand is in the same layout: seen both ways, it is apart.
    assert seen.items() <= known.items()
    assert {"stem.1", "expand.1", "each.1", "relu", "sigmoid", "side.1"} <= seen.keys()
    assert table.protocol["unattributed"] < 0.1
    weighty = [layer for layer in predict(layers, table).per_layer if layer.latency_ms]
    assert {layer.name for layer in layers if layer.op in ("conv", "linear")} <= {layer.name for layer in weighty}
    assert LatencyTable.to_json(table)
    assert np.isfinite([layer.latency_ms for layer in weighty]).all()
