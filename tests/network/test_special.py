"""Gradients that are off, and functions nobody has heard of: the same groups, or frozen ones that say where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwprune.network import trace

from .handwritten import CASES, Case, as_written, channels, check_groups, check_random_cuts, ends, image
from .test_awkward import each, traced


def groups(network):
    """Every group, and whether it is frozen; torch may take other ways to the same thing, so not in which words."""
    return {group.name: (as_written(group), group.frozen is None) for group in network.groups}


@each
def test_a_frozen_model_has_the_groups_of_one_that_is_trained(case):
    model = case.model().requires_grad_(False)
    assert groups(trace(model, case.example)) == groups(traced(case))


def without_gradients(case, mode):
    """The trace of the module with this decorator around its forward."""
    model = case.model()
    kind = type(model)
    model.__class__ = type(kind.__name__, (kind,), {"forward": mode()(kind.forward)})
    return trace(model, case.example)


@each
def test_a_forward_without_gradients_has_the_same_groups(case):
    assert groups(without_gradients(case, torch.no_grad)) == groups(traced(case))


def test_a_forward_in_inference_mode_has_the_same_groups():
    different = []
    for case in CASES:
        if groups(without_gradients(case, torch.inference_mode)) != groups(traced(case)):
            different.append(case.module.__name__)
    assert different == []


class PartlyWithout(nn.Module):
    """A backbone that is not trained: gradients go on and off within one forward pass."""

    mode = torch.no_grad

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.deep = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.side, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        with type(self).mode():
            y = self.deep(self.norm(y).relu())
        return self.head(torch.cat([self.side(x), y.clone()], 1).relu())


class PartlyInference(PartlyWithout):
    mode = torch.inference_mode


@pytest.mark.parametrize("module", [PartlyWithout, PartlyInference])
def test_a_block_without_gradients_in_the_middle(module):
    case = Case(
        module,
        image(),
        {
            "stem": channels(8, "+stem ~norm -deep"),
            "side": channels(6, "+side", {"-head": range(6)}),
            "deep": channels(6, "+deep", {"-head": range(6, 12)}),
        },
        ends("stem side", "head"),
    )
    network = trace(case.model(), case.example)
    check_groups(case, network)
    check_random_cuts(case, network)


class Straight(torch.autograd.Function):
    """The gradient goes back as it came."""

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Visible(Straight):
    """Torch operators, with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * x.sigmoid() + x.flip(1)


class ThroughNumpy(Straight):
    """Element by element, where torch cannot look."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.tanh(x.numpy()))


class LeaderByNumpy(Straight):
    """Every channel is multiplied by the largest number of the first one."""

    @staticmethod
    def forward(ctx, x):
        return x * float(x.numpy()[:, 0].max())


class OrderByNumpy(Straight):
    """Channels in another order: even ones first."""

    @staticmethod
    def forward(ctx, x):
        array = x.numpy()
        return torch.from_numpy(np.concatenate([array[:, ::2], array[:, 1::2]], 1))


@torch.library.custom_op("awkward::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    return x / 2


@torch.library.custom_op("awkward::halve_in_place", mutates_args=("x",))
def halve_in_place(x: Tensor) -> None:
    x /= 2


class Activation(nn.Module):
    """Calls something."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return CALLED[self.name](x)


def _in_place(x: Tensor) -> Tensor:
    halve_in_place(x)
    return x


CALLED = {
    "visible": Visible.apply,
    "numpy": ThroughNumpy.apply,
    "leader": LeaderByNumpy.apply,
    "order": OrderByNumpy.apply,
    "list": lambda x: x * max(x[:, 0].flatten().tolist()),
    "whole list": lambda x: x * x.mean((0, 2, 3)).tolist()[0],
    "array": lambda x: x * float(np.asarray(x)[:, 0].max()),
    "halve": halve,
    "halve in place": _in_place,
}


class Around(nn.Module):
    """Two convolutions around it."""

    called = ""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Conv2d(3, 16, 3), Activation(self.called), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.stem(x)))


def around(called: str, cuttable: dict, frozen: dict) -> Case:
    return Case(type("Around", (Around,), {"called": called}), image(), cuttable, {**ends("stem", "head"), **frozen})


def test_an_unknown_function_of_torch_operators_is_seen_through():
    pairs = {"+stem -head": [[c, 15 - c] for c in range(8)]}
    case = around("visible", {"stem": channels(8, "", pairs)}, {})
    network = trace(case.model(), case.example)
    check_groups(case, network)
    check_random_cuts(case, network)


@pytest.mark.parametrize(
    ("called", "operator", "result"),
    [
        ("halve", "awkward.halve", "reads the result of awkward.halve in act, whose size is fixed"),
        ("halve in place", "awkward.halve_in_place", None),
    ],
)
def test_an_unknown_operator_is_named_with_its_place(called, operator, result):
    frozen = {"stem": f"hwprune has no rule for the operator {operator}.default ({operator} in act)"}
    case = around(called, {}, frozen if result is None else {**frozen, "input of head": result})
    check_groups(case, trace(case.model(), case.example))


@pytest.mark.parametrize("called", ["numpy", "leader", "order", "list", "whole list", "array"])
def test_channels_that_leave_torch_are_frozen_and_the_place_is_named(called):
    case = around(called, {}, {})
    network = trace(case.model(), case.example)
    assert not network.cuttable
    assert " in act" in next(group.frozen for group in network.frozen if group.name == "stem")


@pytest.mark.parametrize("called", ["numpy", "leader", "order", "list", "whole list", "array"])
def test_channels_that_leave_torch_are_never_cut_wrongly(called):
    case = around(called, {}, {})
    check_random_cuts(case, trace(case.model(), case.example), draws=8)


class Standardised(nn.Conv2d):
    """Every filter has mean 0 and variance 1 over its inputs (Qiao et al., 2019), by a batch norm of the weights."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_statistics_of_a_batch_hold_the_dimensions_they_are_taken_over():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Standardised(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    network = trace(model, torch.randn(2, 3, 12, 12))
    assert [group.name for group in network.cuttable] == ["2"]
    (why,) = (group.frozen for group in network.frozen if group.name == "0")
    assert "normalised over this dimension (native_batch_norm in 2)" in why
