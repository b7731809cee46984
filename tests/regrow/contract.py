"""What holds for every rule; each rule's tests inherit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwprune.errors import InputError, ModelError
from hwprune.regrow import Rule, SparsePruner
from hwprune.training import load_checkpoint, save_checkpoint

from .models import MODELS, OPTIMIZERS, batches, convolutions, fit, learn, moments_of

STEPS = 40


def masks_and_weights(pruner: SparsePruner) -> dict[str, Any]:
    tensors = {name: value.clone() for name, value in pruner.model.state_dict().items()}
    return {**tensors, **{f"mask of {name}": mask for name, mask in pruner.masks.state_dict().items()}}


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def places(mask: torch.Tensor) -> list[int]:
    """Where a mask is true, when it is flattened."""
    return mask.flatten().nonzero().flatten().tolist()


class RuleContract:
    """Inherit, and say which rule.

    Attributes:
        below: how far the density may be below the plan.
    """

    below = 0.04

    @staticmethod
    def rule(steps: int = STEPS, **settings: Any) -> Rule:
        """The rule, with several updates in 40 steps."""
        raise NotImplementedError

    def pruner(self, model: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> SparsePruner:
        return SparsePruner(model, optimizer, self.rule(), seed=3, **settings)

    def started(self, kind: str = "convolutions", optimizer: str = "sgd", seed: int = 0, **settings: Any) -> Any:
        model = MODELS[kind](seed, **settings)
        adjust = OPTIMIZERS[optimizer](model.parameters())
        return model, adjust, self.pruner(model, adjust)

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("kind", MODELS)
    def test_weights_outside_the_masks_are_zero_and_no_more_than_planned(self, kind: str, optimizer: str) -> None:
        model, adjust, pruner = self.started(kind, optimizer)
        explored = 0
        for done in fit(model, adjust, pruner, batches(kind, STEPS)):
            assert pruner.masks.density <= pruner.rule.planned(done) + 1e-9
            assert pruner.masks.density > pruner.rule.planned(done) - self.below
            explored += pruner.exploring
            for name, weight in pruner.masks.weights.items():
                outside = ~pruner.masks.active[name]
                if not pruner.exploring:
                    assert not weight.parameter[outside].any()
                    assert all(not m[outside].any() for m in moments_of(adjust, weight.parameter).values())
            assert pruner.finished == (done >= pruner.rule.last)
        assert pruner.finished
        assert explored == sum(self.rule().explores(step) for step in range(1, STEPS + 1))
        assert all(count <= pruner.masks.counts[name] for name, count in pruner.masks.nonzeros().items())
        assert set(pruner.density) == set(pruner.masks.weights)

    def test_the_model_learns_with_what_is_left(self) -> None:
        model, adjust, pruner = self.started("attention")
        data = batches("attention", STEPS, size=32)
        first = learn(model, data[0])
        adjust.zero_grad()
        for _ in fit(model, adjust, pruner, data):
            pass
        assert learn(model, data[-1]) < first

    def test_the_history_tells_what_happened(self) -> None:
        model, adjust, pruner = self.started()
        before, counted, newest = pruner.masks.state_dict(), [], {}
        for done in fit(model, adjust, pruner, batches("convolutions", STEPS)):
            after = pruner.masks.state_dict()
            if self.rule().due(done):
                both = sum(int((before[name] & after[name]).sum()) for name in after)
                either = sum(int((before[name] | after[name]).sum()) for name in after)
                grown = {(name, i) for name in after for i in places(after[name] & ~before[name])}
                gone = sum(int((before[name] & ~after[name]).sum()) for name in after)
                alive = sum(bool(after[name].flatten()[i]) for name, i in newest)
                share = alive / len(newest) if newest else None
                shares = pruner.masks.density, pruner.density, both / either
                counted.append((done, *shares, len(grown), gone, share))
                newest = grown or newest
            before = after
        told = [(u.step, u.density, u.densities, u.iou, u.grown, u.dropped, u.survived) for u in pruner.history]
        assert told == counted

    @pytest.mark.parametrize(
        ("order", "optimizer"),
        [
            ("weights, pruner, state", "sgd"),
            ("pruner, weights, state", "adamw"),
            ("pruner, state, weights", "sgd"),
        ],
    )
    def test_continuing_in_the_middle_of_every_phase(self, tmp_path: Path, optimizer: str, order: str) -> None:
        data = batches("convolutions", STEPS)
        model, adjust, whole = self.started(optimizer=optimizer)
        saved = {}
        for done in fit(model, adjust, whole, data):
            if done in (1, 4, 6, 9, 12, 17, 20):  # in and between the stages of a rule, at and between updates
                state = {"model": dict(model.state_dict()), "optimizer": adjust.state_dict()}
                save_checkpoint(tmp_path / f"{done}", {**state, "pruner": whole.state_dict()})
                saved[done] = tmp_path / f"{done}"
        for done, path in saved.items():
            state = load_checkpoint(path)
            model = convolutions(seed=7)
            adjust = OPTIMIZERS[optimizer](model.parameters())
            for part in order.split(", "):
                if part == "weights":
                    model.load_state_dict(state["model"])
                    adjust.load_state_dict(state["optimizer"])
                elif part == "pruner":
                    again = self.pruner(model, adjust)
                else:
                    again.load_state_dict(state["pruner"])
            for _ in fit(model, adjust, again, data[done:]):
                pass
            assert_same(masks_and_weights(again), masks_and_weights(whole))
            assert again.history == whole.history

    def test_a_state_of_other_settings_is_refused(self) -> None:
        model, adjust, pruner = self.started()
        other = SparsePruner(model, adjust, self.rule(steps=STEPS * 2), seed=3)
        with pytest.raises(InputError, match=r"saved state is of steps=80; this pruner has steps=40"):
            pruner.load_state_dict(other.state_dict())
        with pytest.raises(InputError, match="seed=4"):
            pruner.load_state_dict(SparsePruner(model, adjust, self.rule(), seed=4).state_dict())
        narrow = SparsePruner(model, adjust, self.rule(), seed=3, exclude=["fc"])
        with pytest.raises(InputError, match=r"do not fit the model: fc\.weight"):
            pruner.load_state_dict(narrow.state_dict())

    def test_accumulated_gradients_are_those_of_the_whole_batch(self) -> None:
        def trained(parts: int) -> SparsePruner:
            model, adjust, _ = self.started(norm=False)
            model.double()
            pruner = self.pruner(model, adjust)
            for inputs, labels in batches("convolutions", STEPS):
                for some, their in zip(inputs.double().chunk(parts), labels.chunk(parts), strict=True):
                    (functional.cross_entropy(model(some), their) / parts).backward()
                adjust.step()
                pruner.step()
                adjust.zero_grad()
            return pruner

        assert_same(trained(1).masks.state_dict(), trained(4).masks.state_dict())

    def test_under_bf16_autocast(self) -> None:
        model, adjust, pruner = self.started("attention", "adamw")
        for inputs, labels in batches("attention", STEPS):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), labels)
            loss.backward()
            adjust.step()
            pruner.step()
            adjust.zero_grad()
        assert pruner.masks.density == pytest.approx(pruner.rule.planned(STEPS), abs=self.below)
        assert all(weight.parameter.dtype == torch.float32 for weight in pruner.masks.weights.values())

    def test_a_model_in_half_precision(self) -> None:
        model = MODELS["attention"]().to(torch.bfloat16)
        adjust = OPTIMIZERS["sgd"](model.parameters())
        pruner = self.pruner(model, adjust)
        for _ in fit(model, adjust, pruner, batches("attention", STEPS)):
            pass
        # Few values are possible, so many weights are equal; counts are exact all the same.
        assert pruner.masks.density == pytest.approx(pruner.rule.planned(STEPS), abs=self.below)
        assert not any(w.parameter[~pruner.masks.active[name]].any() for name, w in pruner.masks.weights.items())

    def test_an_overflow_puts_off_what_is_drawn_from_gradients(self) -> None:
        model, adjust, pruner = self.started()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        due = next(step for step in range(1, STEPS + 1) if step > 10 and (pruner.rule.due(step) or step == STEPS))
        for done, (inputs, labels) in enumerate(batches("convolutions", STEPS), start=1):
            loss = functional.cross_entropy(model(inputs), labels)
            scaler.scale(loss * float("inf") if done in (due, due + 1) else loss).backward()
            scaler.step(adjust)
            pruner.step()
            scaler.update()
            adjust.zero_grad()
            if done == due:  # what waits is saved
                state, pruner = pruner.state_dict(), self.pruner(model, adjust)
                pruner.load_state_dict(state)
        updates = {update.step for update in pruner.history}
        planned = {step for step in range(1, STEPS + 1) if pruner.rule.due(step)}
        if pruner.rule.needs_gradients:
            assert updates == planned - {due} | {due + 2}
        else:
            assert updates == planned
        assert pruner.finished
        assert all(bool(weight.parameter.isfinite().all()) for weight in pruner.masks.weights.values())

    def test_weights_that_are_not_finite_are_an_error(self) -> None:
        model, adjust, pruner = self.started()
        due = [step for step in range(1, STEPS + 1) if pruner.rule.due(step)]
        with torch.no_grad():
            model.fc.weight[:] = float("nan")
        if not due:
            pytest.skip("the rule never changes masks after the start")
        data = batches("convolutions", due[0])
        with pytest.raises(InputError, match=f"diverged: .* not finite after step {due[0]}"):
            list(fit(model, adjust, pruner, data))

    def test_steps_without_gradients_say_where_step_belongs(self) -> None:
        _, _, pruner = self.started()
        if not pruner.rule.needs_gradients:
            pytest.skip("the rule reads no gradients")
        for _ in range(next(step for step in range(STEPS) if pruner.rule.due(step + 1))):
            pruner.step()
        with pytest.raises(InputError, match="and there are none") as caught:
            pruner.step()
        assert "before zero_grad" in caught.value.hint

    def test_nothing_to_mask_is_an_error(self) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3), nn.PReLU(3))
        with pytest.raises(ModelError, match="nothing to mask: no parameter of two or more dimensions"):
            self.pruner(model, OPTIMIZERS["sgd"](model.parameters()))
        model = convolutions().requires_grad_(False)
        model.norm.requires_grad_(True)
        with pytest.raises(ModelError, match=r"nothing to mask: .*fc\.weight: frozen"):
            self.pruner(model, OPTIMIZERS["sgd"](model.parameters()))

    def test_a_weight_that_is_not_trained_is_an_error(self) -> None:
        model = convolutions()
        rest = [parameter for name, parameter in model.named_parameters() if name != "fc.weight"]
        with pytest.raises(InputError, match=r"does not train fc\.weight"):
            self.pruner(model, OPTIMIZERS["sgd"](rest))

    @pytest.mark.parametrize("steps", [0, -1])
    def test_a_training_has_steps(self, steps: int) -> None:
        with pytest.raises(InputError, match=f"steps is {steps}"):
            self.rule(steps=steps)
