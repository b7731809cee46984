"""The whole road on a tiny network, against devices that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwprune import device_runner
from hwprune.budget import Plan, read_problem
from hwprune.compression import CompressConfig, InMemory, RunFolder, compress, pipeline, resumed_config, stages
from hwprune.compression.stages import Trial
from hwprune.deploy import Bundle, measure_memory
from hwprune.device_bundle import verify_bundle
from hwprune.errors import BudgetError, InputError, MeasurementError, MissingLatencyError
from hwprune.footprint import footprint
from hwprune.latency import LatencyTable, predict
from hwprune.network import cut, load_weights, trace
from hwprune.pruning import price
from hwprune.report import write_report
from hwprune.report.summary import summary_rows, verdict
from hwprune.targets import load_target, runtime_for
from hwprune.training import load_data

from . import fakes, tiny
from .fakes import config

EXAMPLE = torch.zeros(1, 1, 6, 6)


def dense_macs() -> int:
    return sum(layer.macs for layer in trace(tiny.build(), EXAMPLE).layers)


def check_run(path: Path) -> dict[str, Any]:
    """What holds of every finished run; gives its result."""
    document = json.loads((path / "run.json").read_text())
    assert document["status"] == "done"
    assert fakes.half_written(path) == []
    plan = Plan.load(path / "plan.json")
    smaller = cut(tiny.build(), plan.cuts)
    load_weights(smaller, path / "model.safetensors")
    network = trace(smaller, EXAMPLE)
    result = document["result"]
    assert read_problem((path / "problem.json").read_text()).groups.keys() == plan.widths.keys()
    assert {name: network.dense_widths.get(name, 0) for name in plan.widths} == plan.widths
    assert result["macs"] == sum(layer.macs for layer in network.layers)
    assert result["parameters"] == sum(parameter.numel() for parameter in smaller.parameters())
    assert result["cut_error"] < 1e-4
    assert result["size_bytes"] == (path / "model.onnx").stat().st_size == (path / "bundle/model.onnx").stat().st_size
    # the delivered engine computes what the delivered weights compute
    engine = device_runner.open_engine(str(path / "model.onnx"))
    images = load_data(f"{fakes.TINY}:data", input_shape=(1, 1, 6, 6)).validation[3][0].unsqueeze(0)
    (found,) = engine.run({engine.inputs[0]["name"]: images.numpy()})
    np.testing.assert_allclose(found, smaller.eval()(images).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert verify_bundle(path / "bundle", latency=False)["ok"]
    assert (path / "report.html").exists()
    return result


def test_macs(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", macs="0.5x"))
    result = check_run(run.path)
    assert result["budget"] == pytest.approx(dense_macs() / 2)
    assert 0.95 <= result["macs"] / result["budget"] <= 1
    assert result["measured"] == result["macs"]
    assert result["predicted"] == pytest.approx(result["macs"])
    assert (run.budget_met, result["evidence"], result["attempts"]) == (True, "measured", 1)
    assert result["accuracy"] > 0.6  # three classes by brightness: easily learnt
    assert result["accuracy_of"] == "exported engine"
    kinds = [event["event"] for event in RunFolder.load(run.path).history()]
    assert (kinds.count("prune_epoch"), kinds.count("epoch")) == (2, 2)
    page = write_report(run.path, tmp_path / "page.html").read_text()
    assert page.count("<svg") + page.count("data:image") >= 3


def test_size_in_bytes(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", size="40kB", method="joint-oneshot", saliency_batches=6, epochs=0))
    result = check_run(run.path)
    assert result["budget"] == 40_000
    assert result["measured"] == result["size_bytes"] <= 40_000
    assert result["size_bytes"] / 40_000 >= 0.95
    events = RunFolder.load(run.path).history()
    assert [event["event"] for event in events] == ["trial"] * len(events)  # nothing was trained
    assert len(events) >= result["trials"] - 2 > 0


@pytest.mark.parametrize(("macs", "binding"), [("0.5x", "macs"), ("0.9x", "size_bytes")])
def test_several_budgets_hold_together(tmp_path: Path, device: Any, macs: str, binding: str) -> None:
    """The first is used up as far as the others allow."""
    with device():
        run = compress(config(tmp_path / "run", size="0.6x", macs=macs, prune_epochs=1, epochs=0))
    result = check_run(run.path)
    (other,) = result["other_budgets"]
    assert (result["budget_metric"], other["metric"]) == ("size_bytes", "macs")
    assert result["size_bytes"] <= result["budget"] == pytest.approx(0.6 * result["baseline_size_bytes"])
    assert other["measured"] == result["macs"] <= other["limit"]
    assert other["limit"] == pytest.approx(float(macs[:-1]) * dense_macs())
    assert (run.budget_met, other["met"]) == (True, True)
    used = {"size_bytes": result["budget_used"], "macs": other["measured"] / other["limit"]}
    assert used[binding] > 0.94
    assert verdict(result).count("met") == 2


@pytest.mark.parametrize("alone", [False, True])
def test_memory(tmp_path: Path, device: Any, alone: bool) -> None:
    wanted = "0.8x" if alone else "70kB"
    with device():
        run = compress(config(tmp_path / "run", memory=wanted, weights_in_flash=alone, method="halp-oneshot", epochs=0))
    result = check_run(run.path)
    memory = measure_memory(run.path / "model.onnx", load_target("local-onnxruntime"))
    if memory is None:
        pytest.skip("this onnxruntime does not tell what it allocates")
    assert result["measured"] == result["measured_memory_bytes"] == (memory.activations if alone else memory.total)
    limit = 0.8 * result["baseline_memory_bytes"] if alone else 70_000
    assert result["measured"] <= result["budget"] == pytest.approx(limit)
    assert (run.budget_met, result["evidence"], result["attempts"]) == (True, "measured", 1)
    network = trace(tiny.build(), EXAMPLE)
    widths = {**network.dense_widths, **run.plan.widths}
    taken = footprint(network, runtime_for(load_target("local-onnxruntime")), widths=widths)
    assert result["predicted_memory_bytes"] == (taken.activation_bytes if alone else taken.memory_bytes)
    assert result["memory_of"] == ("activations" if alone else "weights and activations")
    assert len(RunFolder.load(run.path).history()) == result["trials"] - 2  # nothing is weighed twice


def test_memory_of_a_device_out_of_reach_is_predicted(tmp_path: Path, device: Any) -> None:
    (tmp_path / "away.toml").write_text('name = "away"\nconnection = "none"\n')
    with device():
        run = compress(config(tmp_path / "run", target=str(tmp_path / "away.toml"), memory="0.6x", epochs=0))
    result = check_run(run.path)
    network = trace(tiny.build(), EXAMPLE)
    dense = footprint(network, runtime_for(load_target("local-onnxruntime"))).memory_bytes
    assert result["budget"] == pytest.approx(0.6 * dense)
    assert 0.85 * result["budget"] < result["predicted_memory_bytes"] <= result["budget"]
    assert result["predicted"] == pytest.approx(result["predicted_memory_bytes"])
    assert (result["evidence"], result["budget_met"], result["measured_memory_bytes"]) == ("predicted", None, None)


def test_a_device_out_of_reach_is_predicted_for(tmp_path: Path, device: Any, tables: dict[str, Path]) -> None:
    def refuse(*given: Any, **settings: Any) -> dict[str, Any]:
        raise AssertionError("a device out of reach was measured")

    settings = {"target": str(tables["away target"]), "table": tables["away"], "latency": "0.6x", "epochs": 1}
    with device(refuse):
        run = compress(config(tmp_path / "run", **settings))
    result = check_run(run.path)
    table, network = LatencyTable.load(tables["away"]), trace(tiny.build(), EXAMPLE)
    dense = predict(network.layers, table).latency_ms
    promised = predict(network.layers, table, {**network.dense_widths, **run.plan.widths}).latency_ms
    assert result["budget"] == pytest.approx(0.6 * dense)
    assert result["predicted_latency_ms"] == pytest.approx(promised)
    assert 0.85 < promised / result["budget"] <= 1
    assert (result["evidence"], result["budget_met"], run.budget_met) == ("predicted", None, None)
    assert (result["measured_latency_ms"], result["baseline_latency_ms"], result["measured"]) == (None, None, None)
    assert result["accuracy_of"] == "torch model"
    manifest = Bundle.load(run.bundle).manifest
    assert manifest["latency"]["measured_ms"] is None
    assert manifest["latency"]["predicted_ms"] == pytest.approx(promised)
    assert manifest["device"] is None


@pytest.mark.parametrize("latency", ["0.5x", "1.6ms"])
def test_a_measured_latency_ends_in_the_window(tmp_path: Path, device: Any, tables: Any, latency: str) -> None:
    """The table knows nothing of this device; only measuring does."""
    with device():
        run = compress(config(tmp_path / "run", latency=latency, table=tables["here"]))
    result = check_run(run.path)
    cost = fakes.Call(str(run.path / "model.onnx")).milliseconds()
    dense = fakes.Call(str(run.path / "baseline.onnx")).milliseconds()
    assert result["measured_latency_ms"] == pytest.approx(cost)
    assert result["baseline_latency_ms"] == pytest.approx(dense)
    assert result["budget"] == pytest.approx(dense / 2 if latency == "0.5x" else 1.6)
    assert 0.95 <= cost / result["budget"] <= 1
    assert (run.budget_met, result["attempts"]) == (True, 1)
    assert Bundle.load(run.bundle).manifest["latency"]["measured_ms"]["p50_ms"] == pytest.approx(cost)


@pytest.mark.parametrize("factor", [1.08, 0.9])
def test_an_engine_delivered_outside_the_window_is_solved_again(
    tmp_path: Path, device: Any, tables: Any, factor: float
) -> None:
    delivered: list[int] = []
    slow = fakes.slow_when_delivered(tmp_path / "run", factor)

    def measure(calls: Any, **settings: Any) -> dict[str, Any]:
        if "artifact" in json.loads((tmp_path / "run/run.json").read_text())["stages"]:
            delivered.append(settings["rounds"])
        return slow(calls, **settings)

    with device(measure):
        run = compress(config(tmp_path / "run", latency="0.5x", table=tables["here"]))
    result = check_run(run.path)
    assert result["attempts"] == 2
    first, longer, second = delivered  # outside the window is measured again, longer, before it is believed
    assert first == second < longer
    assert 0.95 <= result["measured_latency_ms"] / result["budget"] <= 1
    events = RunFolder.load(run.path).history()
    assert [event["attempt"] for event in events if event["event"] == "epoch"] == [0, 0, 1, 1]
    # what the first engine measured when delivered is among the trials, in place of what the loop had measured
    trials = run.document["stages"]["settle"]["trials"]
    begun = next(place for place, event in enumerate(events) if event["event"] == "epoch")
    measured = {tuple(e["widths"].values()): e["measured"] for e in events[:begun] if e["event"] == "trial"}
    ratios = [t["measured"] / measured[key] for t in trials if (key := tuple(t["widths"].values())) in measured]
    assert sorted(ratios, key=lambda ratio: abs(ratio - 1))[-1] == pytest.approx(factor)
    assert sum(ratio != pytest.approx(1) for ratio in ratios) == 1


def test_an_engine_always_slower_than_its_trial_is_reported_as_it_is(
    tmp_path: Path, device: Any, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "ATTEMPTS", 2)
    slow = fakes.slow_when_delivered(tmp_path / "run", 1.5, attempts=99)
    with device(slow):
        run = compress(config(tmp_path / "run", latency="0.5x", table=tables["here"], epochs=0))
    assert run.result["attempts"] == 2
    assert run.budget_met is (run.result["measured"] <= run.result["budget"]) is False
    cost = fakes.Call(str(run.path / "model.onnx")).milliseconds()
    assert run.result["measured_latency_ms"] == pytest.approx(1.5 * cost)


@pytest.mark.parametrize("budget", [{"macs": "1.2x"}, {"latency": "50ms"}])
def test_a_dense_network_inside_the_budget_is_left_whole(
    tmp_path: Path, device: Any, tables: Any, budget: dict[str, str]
) -> None:
    table = {"table": tables["here"]} if "latency" in budget else {}
    with device():
        run = compress(config(tmp_path / "run", epochs=0, **budget, **table))
    result = check_run(run.path)
    assert result["macs"] == result["baseline_macs"] == dense_macs()
    assert run.budget_met


@pytest.mark.parametrize(
    "budget", [{"latency": "0.01x"}, {"latency": "0.001ms"}, {"size": "100B"}, {"macs": "0.001x"}], ids=str
)
def test_out_of_reach_says_the_least_and_leaves_nothing(
    tmp_path: Path, device: Any, tables: Any, budget: dict[str, str]
) -> None:
    (tmp_path / "run").mkdir()
    table = {"table": tables["here"]} if "latency" in budget else {}
    with device(), pytest.raises(BudgetError, match="still takes") as caught:
        compress(config(tmp_path / "run", **budget, **table))
    assert "ask for" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_out_of_reach_by_prediction_alone(tmp_path: Path, device: Any, tables: Any) -> None:
    settings = {"target": str(tables["away target"]), "table": tables["away"], "latency": "0.01x"}
    with device(), pytest.raises(BudgetError, match="cannot be reached"):
        compress(config(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_a_busy_device_leaves_a_run_that_goes_on(tmp_path: Path, device: Any, tables: Any) -> None:
    def busy(*given: Any, **settings: Any) -> dict[str, Any]:
        raise device_runner.MeasurementRefused("3% of the samples were undisturbed")

    settings = config(tmp_path / "run", latency="0.5x", table=tables["here"])
    with device(busy), pytest.raises(MeasurementError, match="3%"):
        compress(settings)
    with device():
        assert compress(resumed_config(tmp_path / "run"), resume=True).budget_met


def test_a_table_that_lacks_a_layer_is_refused_before_training(tmp_path: Path, device: Any, tables: Any) -> None:
    table = LatencyTable.load(tables["here"])
    lacking = LatencyTable(**{**vars(table), "entries": table.entries[:-1]})
    for budget in ({"latency": "0.5x"}, {"macs": "0.5x"}):  # with macs it is only for the report
        with device(), pytest.raises(MissingLatencyError):
            compress(config(tmp_path / "run", **budget), given=InMemory(table=lacking))
        assert not (tmp_path / "run").exists()


def test_what_is_given_in_memory_stays_as_it_is(tmp_path: Path, device: Any) -> None:
    model = tiny.build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = load_data(f"{fakes.TINY}:data", input_shape=(1, 1, 6, 6))
    settings = config(tmp_path / "run", macs="0.5x", model="in memory", data="in memory", epochs=0)
    with device():
        run = compress(settings, given=InMemory(model=model, data=data))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    check_run(run.path)


def test_a_validation_set_smaller_than_the_target_s_batch(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", macs="0.5x", batch=32, epochs=0))
    assert run.budget_met
    assert Bundle.load(run.bundle).manifest["inputs"][0]["shape"] == [32, 1, 6, 6]


@pytest.mark.parametrize("shape", [1.0, 1.05, 0.8])
def test_pruning_on_the_way_never_cuts_below_what_the_budget_needs(shape: float) -> None:
    """Whatever the device makes of a prediction (a power of it), the last step can still reach the window."""

    def measured(predicted: float) -> float:
        return 0.3 + predicted**shape

    for used in (0.3, 0.5, 0.8):
        trials = [Trial({}, p, measured(p)) for p in (10.0, 1.0)]
        limit = used * trials[0].measured
        at = stages._as_predicted(limit, trials, slack=stages.SLACK)
        assert 0.98 * limit < measured(at)


def test_settings_that_only_the_pipeline_can_judge(tmp_path: Path) -> None:
    for changes, says in (
        ({"criterion": "magic", "macs": "0.5x"}, "criterion 'magic'"),
        ({}, "0 budgets"),
        ({"macs": "0.5x", "accelerator": "abacus"}, "accelerator"),
        ({"macs": "0.5x", "input_shape": (1, 1, 7, 6)}, "shape"),
    ):
        with pytest.raises(InputError, match=says):
            compress(config(tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()
    assert isinstance(config(tmp_path), CompressConfig)


def test_blocks_are_removed_where_widths_are_not_enough(tmp_path: Path, device: Any) -> None:
    network = trace(tiny.build(), EXAMPLE)
    (block,) = network.blocks
    prices = price(network, "macs", step=4)
    limit = 0.9 * prices.value(prices.smallest)
    with device(), pytest.raises(BudgetError, match="cannot be reached") as refused:
        compress(config(tmp_path / "no", macs=f"{limit:.0f}"))
    assert refused.value.hint.endswith(", or give --remove-blocks")
    with device():
        run = compress(config(tmp_path / "run", macs=f"{limit:.0f}", remove_blocks=True))
    result = check_run(run.path)
    assert run.budget_met
    assert result["macs"] <= limit
    assert {name: run.plan.widths[name] for name in block.groups} == dict.fromkeys(block.groups, 0)
    assert (result["blocks"], result["removed_blocks"]) == (1, [block.name])
    assert any(row.change == f"without {block.name}" for row in summary_rows(result))
    again = compress(config(tmp_path / "run", macs=f"{limit:.0f}", remove_blocks=True), resume=True)
    assert again.plan == run.plan


def test_the_baselines_remove_no_blocks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="halp cannot remove blocks"):
        compress(config(tmp_path / "run", macs="0.5x", remove_blocks=True, method="halp"))


def test_what_was_pruned_is_explored_and_grown(tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", macs="0.5x", regrow="iee", prune_steps=2, prune_epochs=3, epochs=1))
    result = check_run(run.path)
    assert run.budget_met
    assert result["budget_used"] > 0.9
    with pytest.raises(InputError, match="at least 16 minibatches, and there are 8"), device():
        compress(config(tmp_path / "short", macs="0.5x", regrow="iee", prune_steps=5))
    with pytest.raises(InputError, match="joint-oneshot does not regrow"):
        compress(config(tmp_path / "not", macs="0.5x", regrow="iee", method="joint-oneshot"))
