"""The pruner in loops that somebody else wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwprune.budget import geometric
from hwprune.errors import InfeasibleError, InputError
from hwprune.network import cut, masked, trace
from hwprune.pruning import BudgetPruner, PruneSchedule, price
from hwprune.saliency import criteria
from hwprune.training import load_checkpoint, save_checkpoint

from .made_up import Bottleneck, batches, made_up_table

EXAMPLE = torch.zeros(1, 1, 8, 8)
NETWORK = trace(Bottleneck(), EXAMPLE)
LATENCY = price(NETWORK, "latency_ms", table=made_up_table(NETWORK, step=4))
MACS = price(NETWORK, "macs", step=2)
STEPS, INTERVAL = 4, 3
Loop = Callable[[nn.Module, BudgetPruner, Iterable[Any]], None]
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
}


def pruner_for(model: nn.Module, pricing=LATENCY, *, used: float = 0.5, **settings: Any) -> BudgetPruner:
    schedule = settings.pop("schedule", PruneSchedule(steps=STEPS, interval=INTERVAL))
    limit = used * pricing.value(pricing.dense)
    return BudgetPruner(model, NETWORK, pricing, limit=limit, schedule=schedule, **settings)


def fit(model: nn.Module, pruner: BudgetPruner, optimizer: torch.optim.Optimizer, data: Iterable[Any]) -> None:
    model.train()
    for images, labels in data:
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def comparable(plan: Any) -> tuple[Any, ...]:
    return plan.widths, plan.kept, plan.cuts, plan.used, plan.objective


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("pricing", [LATENCY, MACS], ids=["latency", "macs"])
def test_masks_fall_along_the_schedule(optimizer: str, pricing: Any) -> None:
    model = Bottleneck()
    pruner, adjust = pruner_for(model, pricing), OPTIMIZERS[optimizer](model.parameters())
    dense = pricing.value(pricing.dense)
    targets = geometric(dense, dense / 2, STEPS)
    before = pruner.widths
    for call, batch in enumerate(batches(STEPS * INTERVAL), start=1):
        fit(model, pruner, adjust, [batch])
        done, rest = divmod(call, INTERVAL)
        if rest or done == STEPS:  # between two prune steps, and at the last one, which finish() makes
            assert pruner.widths == before
        else:
            assert pricing.value(pruner.widths) <= targets[done - 1]
            # what could be added in one group would go over: the target is met, not undershot
            for group, width in pruner.widths.items():
                wider = min((w for w in pricing.widths[group] if width < w <= before[group]), default=None)
                if wider:
                    assert pricing.value({**pruner.widths, group: wider}) > targets[done - 1]
        before = pruner.widths
        # Momentum and weight decay pull at what is masked; it stays zero all the same.
        assert same(dict(model.state_dict()), dict(masked(model, NETWORK, pruner.masks.kept).state_dict()))
        assert pruner.finished == (call == STEPS * INTERVAL)
    assert before != pricing.dense


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_finish_is_the_masked_network_inside_the_budget(optimizer: str) -> None:
    model = Bottleneck()
    pruner = pruner_for(model)
    fit(model, pruner, OPTIMIZERS[optimizer](model.parameters()), batches(STEPS * INTERVAL))
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan, smaller = pruner.finish()
    assert same(before, dict(model.state_dict()))
    assert plan.used["latency_ms"] == pytest.approx(LATENCY.value(plan.widths))
    assert 0.85 < plan.used["latency_ms"] / pruner.limit <= 1
    assert all(set(plan.kept[group]) <= set(pruner.masks.kept[group]) for group in plan.widths)
    reference = masked(model, NETWORK, plan.kept)
    for images, _ in batches(2, seed=9):
        with torch.no_grad():
            torch.testing.assert_close(smaller(images), reference(images), rtol=1e-4, atol=1e-5)
    replayed = cut(model, plan.cuts)
    assert same(dict(replayed.state_dict()), dict(smaller.state_dict()))
    assert trace(smaller, EXAMPLE).dense_widths == {**NETWORK.dense_widths, **plan.widths}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, INTERVAL, INTERVAL + 1, 2 * INTERVAL + 2, STEPS * INTERVAL])
def test_continuing_from_a_checkpoint_ends_in_the_same_plan(tmp_path: Path, optimizer: str, stop: int) -> None:
    data = batches(STEPS * INTERVAL)
    whole = Bottleneck()
    pruner = pruner_for(whole)
    fit(whole, pruner, OPTIMIZERS[optimizer](whole.parameters()), data)
    expected, smaller = pruner.finish()

    first = Bottleneck()
    pruner, adjust = pruner_for(first), OPTIMIZERS[optimizer](first.parameters())
    fit(first, pruner, adjust, data[:stop])
    state = {"model": dict(first.state_dict()), "optimizer": adjust.state_dict(), "pruner": pruner.state_dict()}
    save_checkpoint(tmp_path / "state", state)
    saved = load_checkpoint(tmp_path / "state")

    second = Bottleneck(seed=7)
    second.load_state_dict(saved["model"])
    adjust = OPTIMIZERS[optimizer](second.parameters())
    adjust.load_state_dict(saved["optimizer"])
    pruner = pruner_for(second)
    pruner.load_state_dict(saved["pruner"])
    fit(second, pruner, adjust, data[stop:])
    plan, again = pruner.finish()
    assert comparable(plan) == comparable(expected)
    assert same(dict(again.state_dict()), dict(smaller.state_dict()))


def test_under_bf16_autocast() -> None:
    model = Bottleneck()
    pruner, adjust = pruner_for(model), OPTIMIZERS["adamw"](model.parameters())
    model.train()
    for images, labels in batches(STEPS * INTERVAL):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(images), labels)
        assert model.fc(torch.zeros(1, 20)).dtype == torch.float32
        loss.backward()
        adjust.step()
        pruner.step()
        adjust.zero_grad()
    plan, smaller = pruner.finish()
    assert plan.used["latency_ms"] <= pruner.limit
    images, _ = batches(1)[0]
    reference = masked(model, NETWORK, plan.kept).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(smaller.eval()(images), reference(images), rtol=0.05, atol=0.05)


def test_a_gradient_scaler_changes_nothing_and_an_overflow_is_left_out() -> None:
    def saliency(scaler: Any, overflow: bool) -> Any:
        model = Bottleneck()
        pruner = pruner_for(model, schedule=PruneSchedule(steps=1, interval=4))
        adjust = torch.optim.SGD(model.parameters(), 0.0)
        for index, (images, labels) in enumerate(batches(4)):
            loss = functional.cross_entropy(model(images), labels)
            scaler.scale(loss * float("inf") if overflow and index == 1 else loss).backward()
            scaler.step(adjust)
            pruner.step()
            scaler.update()
            adjust.zero_grad()
        return pruner

    plain = saliency(torch.amp.GradScaler("cpu", enabled=False), overflow=False)
    scaled = saliency(torch.amp.GradScaler("cpu", init_scale=1024.0), overflow=False)
    expected = plain._accumulator.scores()
    for group, scores in scaled._accumulator.scores().items():
        assert scores == pytest.approx(expected[group], rel=1e-3, abs=1e-7)
    bumpy = saliency(torch.amp.GradScaler("cpu", init_scale=1024.0), overflow=True)
    assert (bumpy._accumulator.batches, bumpy._accumulator.skipped) == (3, 1)
    assert bumpy.finish()[0].used["latency_ms"] <= bumpy.limit


@pytest.mark.parametrize("kind", ["prune", "explore"])
def test_two_processes_of_ddp_agree(tmp_path: Path, kind: str) -> None:
    worker = Path(__file__).parent / "ddp_worker.py"
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, worker, tmp_path, kind], env={**environment, "RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["plan"] == ranks[1]["plan"]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["loss"] != ranks[1]["loss"]  # each saw its own data
    assert ranks[0]["used"] <= 0.5


def test_one_step_is_one_shot() -> None:
    model = Bottleneck()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruner = pruner_for(model, schedule=PruneSchedule(steps=1, interval=5))
    model.eval()
    for images, labels in batches(5):
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        pruner.step()
    assert pruner.finished
    assert pruner.widths == LATENCY.dense
    assert same(before, dict(model.state_dict()))
    plan, _ = pruner.finish()
    assert plan.used["latency_ms"] <= pruner.limit
    assert plan.widths != LATENCY.dense


def test_steps_after_the_last_keep_the_masks_and_the_saliency() -> None:
    model = Bottleneck()
    pruner, adjust = pruner_for(model), OPTIMIZERS["sgd"](model.parameters())
    fit(model, pruner, adjust, batches(STEPS * INTERVAL))
    widths, scores = pruner.widths, pruner._accumulator.scores()
    fit(model, pruner, adjust, batches(5, seed=4))
    assert pruner.widths == widths
    assert all((scores[group] == again).all() for group, again in pruner._accumulator.scores().items())
    assert same(dict(model.state_dict()), dict(masked(model, NETWORK, pruner.masks.kept).state_dict()))


@pytest.mark.parametrize("used", [1.0, 1.7])
@pytest.mark.parametrize("steps", [3, 7, 10])
def test_a_budget_that_the_dense_network_meets_cuts_nothing(used: float, steps: int) -> None:
    model = Bottleneck()
    pruner = pruner_for(model, used=used, schedule=PruneSchedule(steps=steps, interval=1))
    fit(model, pruner, OPTIMIZERS["sgd"](model.parameters()), batches(steps))
    plan, _ = pruner.finish()
    assert pruner.widths == plan.widths == LATENCY.dense


def test_a_budget_out_of_reach_is_refused_before_any_training() -> None:
    with pytest.raises(InfeasibleError, match="latency_ms cannot be brought to") as caught:
        pruner_for(Bottleneck(), used=0.001)
    assert caught.value.least["latency_ms"] == pytest.approx(LATENCY.value(LATENCY.smallest), rel=0.2)


@pytest.mark.parametrize("used", [0.0, -0.5, float("nan")])
def test_a_budget_that_is_none_is_refused(used: float) -> None:
    with pytest.raises(InputError, match="budget latency_ms is"):
        pruner_for(Bottleneck(), used=used)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"interval": 0}])
def test_a_schedule_needs_steps(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="=0"):
        PruneSchedule(**settings)


def test_a_step_without_gradients_says_where_it_belongs() -> None:
    with pytest.raises(InputError, match="needs gradients") as caught:
        pruner_for(Bottleneck()).step()
    assert "zero_grad" in caught.value.hint


@pytest.mark.parametrize(
    "criterion", sorted(set(criteria()) - {"bn-scale"})
)  # which judges no layer without batch norm
def test_every_criterion_reaches_the_budget(criterion: str) -> None:
    model = Bottleneck()
    pruner = pruner_for(model, criterion=criteria()[criterion])
    fit(model, pruner, OPTIMIZERS["sgd"](model.parameters()), batches(STEPS * INTERVAL))
    plan, smaller = pruner.finish()
    assert plan.used["latency_ms"] <= pruner.limit
    assert smaller(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


# Blocks ---------------------------------------------------------------------------------------------------------------

BLOCKS = price(NETWORK, "macs", step=2, blocks=True)


def below_the_least_widths() -> float:
    """A limit that no widths are inside of, so that the block has to go."""
    limit = 1.1 * BLOCKS.value(BLOCKS.smallest)
    assert limit < 0.9 * MACS.value(MACS.smallest)
    return limit


def pruned(model: nn.Module, data: Any, steps: int = STEPS, interval: int = INTERVAL) -> BudgetPruner:
    schedule = PruneSchedule(steps=steps, interval=interval)
    pruner = BudgetPruner(model, NETWORK, BLOCKS, limit=below_the_least_widths(), schedule=schedule)
    fit(model, pruner, OPTIMIZERS["sgd"](model.parameters()), data)
    return pruner


def test_a_block_goes_where_widths_are_not_enough() -> None:
    model = Bottleneck()
    pruner = pruned(model, batches(STEPS * INTERVAL))
    assert [block.name for block in NETWORK.blocks] == ["body"]
    (group,) = NETWORK.blocks[0].groups
    model.eval()
    plan, smaller = pruner.finish()
    assert plan.widths[group] == 0
    assert plan.kept[group] == ()
    assert plan.widths.keys() == plan.kept.keys() == BLOCKS.widths.keys()
    assert BLOCKS.value(plan.widths) <= below_the_least_widths()
    assert plan.used["macs"] == pytest.approx(BLOCKS.value(plan.widths))
    assert plan.bound is not None
    reference = masked(model, NETWORK, plan.kept)
    for images, _ in batches(2, seed=9):
        with torch.no_grad():
            torch.testing.assert_close(smaller(images), reference(images), rtol=1e-4, atol=1e-5)
    assert same(
        dict(cut(Bottleneck(), plan.cuts).state_dict()) | dict(smaller.state_dict()), dict(smaller.state_dict())
    )


def test_a_block_removed_on_the_way_stays_removed() -> None:
    """Its masks hold it silent while the rest is trained, and the plan says so."""
    model, data = Bottleneck(), batches(STEPS * INTERVAL)
    pruner = pruned(model, data, steps=STEPS * INTERVAL, interval=1)
    (group,) = NETWORK.blocks[0].groups
    assert pruner.widths[group] == 0  # the last step but one was below the least widths already
    with torch.no_grad():
        images = data[0][0]
        stream = model.stem(images)
        expected = model.fc(torch.sigmoid(model.last(stream)).mean((2, 3)))
        assert torch.allclose(model(images), expected)
    assert group not in pruner.problem().groups


@pytest.mark.parametrize("stop", [INTERVAL + 1, 3 * INTERVAL + 1])
def test_blocks_continue_from_a_checkpoint(tmp_path: Path, stop: int) -> None:
    data = batches(STEPS * INTERVAL)
    expected, _ = pruned(Bottleneck(), data).finish()
    first = Bottleneck()
    adjust = OPTIMIZERS["sgd"](first.parameters())
    settings = {"limit": below_the_least_widths(), "schedule": PruneSchedule(steps=STEPS, interval=INTERVAL)}
    pruner = BudgetPruner(first, NETWORK, BLOCKS, **settings)
    fit(first, pruner, adjust, data[:stop])
    state = {"model": dict(first.state_dict()), "optimizer": adjust.state_dict(), "pruner": pruner.state_dict()}
    save_checkpoint(tmp_path / "state", state)
    saved = load_checkpoint(tmp_path / "state")
    second = Bottleneck(seed=7)
    second.load_state_dict(saved["model"])
    adjust = OPTIMIZERS["sgd"](second.parameters())
    adjust.load_state_dict(saved["optimizer"])
    pruner = BudgetPruner(second, NETWORK, BLOCKS, **settings)
    pruner.load_state_dict(saved["pruner"])
    fit(second, pruner, adjust, data[stop:])
    assert comparable(pruner.finish()[0]) == comparable(expected)
