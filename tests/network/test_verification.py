"""A wrong cut is found: values, shapes, parameters."""

import math

import pytest
import torch
from torch import nn

from hwprune.errors import SurgeryError
from hwprune.network import cut, trace, verify_cut
from hwprune.network.difference import CHANGES, moved

from . import models

IMAGE = torch.randn(2, 3, 32, 32)


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = models.ResNet()
    network = trace(model, IMAGE)
    kept = {"layer1.conv1": [0, 3, 4, 9], "layer2.conv2": list(range(1, 30))}
    return model, network, kept, cut(model, network.cuts(kept))


def test_a_right_cut_is_confirmed_with_its_numbers(case):
    model, network, kept, smaller = case
    report = verify_cut(model, smaller, network, kept, IMAGE)
    assert report.max_relative_error < 1e-5
    assert report.parameters == report.expected_parameters == sum(p.numel() for p in smaller.parameters())


def test_other_channels_than_planned_are_found(case):
    model, network, kept, _ = case
    other = cut(model, network.cuts({**kept, "layer1.conv1": [0, 3, 4, 10]}))
    with pytest.raises(SurgeryError, match="differs from the original"):
        verify_cut(model, other, network, kept, IMAGE)


def test_channels_in_another_order_are_found(case):
    model, network, kept, smaller = case
    with torch.no_grad():
        smaller.layer1.conv2.weight.copy_(smaller.layer1.conv2.weight.flip(1))
    with pytest.raises(SurgeryError, match="differs from the original"):
        verify_cut(model, smaller, network, kept, IMAGE)


def test_wrong_sizes_are_found(case):
    model, network, kept, smaller = case
    with pytest.raises(SurgeryError, match=r"stem.0.0.weight has shape \(16, 3, 3, 3\), not \(8, 3, 3, 3\)"):
        verify_cut(model, smaller, network, {**kept, "stem.0.0": list(range(8))}, IMAGE)
    smaller.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(SurgeryError, match="parameters, not"):
        verify_cut(model, smaller, network, kept, IMAGE)


def test_a_smaller_network_that_does_not_run_is_found(case):
    model, network, kept, smaller = case
    smaller.layer1.relu = nn.Linear(3, 3)
    smaller.layer1.relu.weight = model.fc.weight
    with pytest.raises(SurgeryError):
        verify_cut(model, smaller, network, kept, IMAGE)


def test_neither_network_changes(case):
    model, network, kept, smaller = case
    smaller.train()
    states = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in (model, smaller)]
    verify_cut(model, smaller, network, kept, IMAGE)
    assert smaller.training
    for net, state in zip((model, smaller), states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


class Balanced(nn.Module):
    """What it returns beside a large map is next to nothing, for it cancels."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3), nn.Conv2d(24, 4, 1)

    def forward(self, x):
        y = self.head(self.deep(self.stem(x).relu()).relu())
        return torch.cat([y, y.double().sum((2, 3), keepdim=True).float().expand_as(y) - y.sum((2, 3), True)], 1)


def test_what_cancels_may_be_off_by_rounding():
    torch.manual_seed(0)
    model = Balanced()
    network = trace(model, IMAGE)
    assert {group.name for group in network.cuttable} == {"stem", "deep"}
    kept = {"stem": range(1, 24, 2), "deep": range(0, 24, 3)}
    assert 0 < verify_cut(model, cut(model, network.cuts(kept)), network, kept, IMAGE).max_relative_error < 1e-4


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_last_digits_change_everywhere_and_come_back(kind):
    model = nn.Linear(700, 600).to(kind)  # more numbers than are changed at a time
    model.weight = nn.Parameter(torch.randn(700, 600).to(kind).t())  # not contiguous
    model.extra = nn.Parameter(torch.randn(600, 700).to(kind))
    with torch.no_grad():
        model.weight[3], model.extra[4] = 0.0, math.inf
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    run = lambda one, given: seen.append({n: t.clone() for n, t in one.state_dict().items()}) or [one(given)]  # noqa: E731
    assert len(list(moved(model, torch.randn(2, 700).to(kind), run))) == len(seen) == CHANGES
    for state in seen:
        for name, tensor in state.items():
            ordinary = before[name].isfinite() & (before[name] != 0)
            assert torch.equal(tensor != before[name], ordinary)
            torch.testing.assert_close(tensor, before[name], rtol=2 * CHANGES * torch.finfo(kind).eps, atol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
