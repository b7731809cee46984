"""Which weights get a mask, what a mask does to them and to the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as hooked_weight_norm

from hwprune.errors import InputError, ModelError
from hwprune.regrow import SparseMasks, layer_counts

from .models import MODELS, OPTIMIZERS, attention, batches, convolutions, learn, moments_of


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_random_masks_have_the_exact_count_of_every_layer(kind: str, distribution: Any) -> None:
    masks = SparseMasks(MODELS[kind]())
    masks.at_random(distribution, 0.3, seed=1)
    assert masks.counts == layer_counts(distribution, masks.shapes, 0.3)
    masks.apply()
    assert masks.nonzeros() == masks.counts
    assert masks.density == sum(masks.counts.values()) / masks.total
    again = SparseMasks(MODELS[kind](seed=9))
    again.at_random(distribution, 0.3, seed=1)
    assert all(torch.equal(mask, again.active[name]) for name, mask in masks.active.items())


def test_default_is_every_parameter_of_two_or_more_dimensions() -> None:
    masks = SparseMasks(attention())
    model = attention()
    assert list(masks.weights) == [name for name, p in model.named_parameters() if p.ndim >= 2]
    assert masks.left_out == {}
    assert masks.total == sum(p.numel() for p in model.parameters() if p.ndim >= 2)


def test_first_layer_and_names_are_left_out() -> None:
    masks = SparseMasks(convolutions(), first_dense=True, exclude=["fc", "*wise.*"])
    assert list(masks.weights) == ["grouped.weight", "transposed.weight"]
    assert masks.left_out == {
        "stem.weight": "the first layer stays dense",
        "depthwise.weight": "excluded by name",
        "fc.weight": "excluded by name",
    }
    with pytest.raises(ModelError, match=r"exclude has \['norm'\], which fits no parameter") as caught:
        SparseMasks(convolutions(), exclude=["norm", "fc"])
    assert "stem.weight" in caught.value.hint


def test_shared_parameters_count_once_and_go_by_either_name() -> None:
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9))
    model[2].weight = model[0].weight
    assert list(SparseMasks(model).weights) == ["0.weight", "1.weight"]
    assert list(SparseMasks(model, exclude=["2"]).weights) == ["1.weight"]


def test_frozen_weights_are_left_out_and_keep_their_values() -> None:
    model = convolutions()
    model.grouped.weight.requires_grad_(False)
    before = model.grouped.weight.clone()
    masks = SparseMasks(model)
    masks.keep_largest(10)
    masks.apply()
    assert masks.left_out == {"grouped.weight": "frozen (requires_grad is False)"}
    assert torch.equal(model.grouped.weight, before)
    assert sum(masks.nonzeros().values()) == 10


def parametrised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), parametrizations.orthogonal(nn.Linear(4, 4)))


def hooked() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.Linear(4, 4), hooked_weight_norm(nn.Linear(4, 4)))


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[1], "weight", 3)
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))


def meta() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))


class Wrapped(torch.Tensor):
    """A tensor of its own kind."""


def subclassed() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.randn(4, 4).as_subclass(Wrapped))
    return model


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (parametrised, r"1\.parametrizations\.weight.* a parametrization computes"),
        (hooked, r"1\.weight_[gv] is not the weight itself: a hook"),
        (pruned, r"1\.weight_orig is not the weight itself: a hook"),
        (lazy, r"1\.weight is not initialised yet"),
        (meta, r"1\.weight is on the meta device"),
        (subclassed, r"1\.weight is a Wrapped"),
    ],
)
def test_what_is_not_the_trained_weight_is_refused_or_excluded(build: Any, says: str) -> None:
    model = build()
    with pytest.raises(ModelError, match=says) as caught:
        SparseMasks(model)
    assert "exclude it by name" in caught.value.hint
    assert list(SparseMasks(model, exclude=["1"]).weights) == ["0.weight"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_apply_reaches_every_moment_and_nothing_else(optimizer: str) -> None:
    model = convolutions()
    adjust = OPTIMIZERS[optimizer](model.parameters())
    for batch in batches("convolutions", 3):
        learn(model, batch)
        adjust.step()
    masks = SparseMasks(model, exclude=["fc"])
    masks.keep_largest_of_each({name: 5 for name in masks.weights})
    moments = {name: moments_of(adjust, p) for name, p in model.named_parameters()}
    before = {name: {k: v.clone() for k, v in of.items()} for name, of in moments.items()}
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert all(before.values())
    masks.apply(adjust)
    for name, parameter in model.named_parameters():
        mask = masks.active.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, torch.where(mask, values[name], 0.0))
        assert all(torch.equal(v, torch.where(mask, before[name][k], 0.0)) for k, v in moments[name].items())
        assert all(state == 3 for key, state in adjust.state[parameter].items() if key == "step")
    assert not any(p[p == 0].signbit().any() for p in model.parameters())  # no negative zeros
    assert sum(masks.nonzeros().values()) == 5 * len(masks.weights)


def test_infinite_moments_are_held_at_zero_too() -> None:
    model = nn.Linear(4, 4)
    adjust = OPTIMIZERS["sgd"](model.parameters())
    adjust.state[model.weight]["momentum_buffer"] = torch.full((4, 4), float("inf"))
    masks = SparseMasks(model)
    masks.keep_largest(6)
    masks.apply(adjust)
    assert int((adjust.state[model.weight]["momentum_buffer"] == 0).sum()) == 10


def test_saved_masks_of_another_model_are_refused() -> None:
    masks = SparseMasks(convolutions())
    with pytest.raises(InputError, match=r"do not fit the model: .*tokens\.weight"):
        masks.load_state_dict(SparseMasks(attention()).state_dict())


def test_a_rule_that_refuses_by_shape_is_asked_after_the_weight_was_checked() -> None:
    model = lazy()
    with pytest.raises(ModelError, match=r"1\.weight is not initialised yet"):
        SparseMasks(model, refuses=lambda weight: "odd" if weight.parameter.shape[0] % 2 else "")
