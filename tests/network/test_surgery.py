"""Cutting: attributes, flags, sharing, replay on a fresh instance, refusals."""

import json

import pytest
import torch
from torch import nn

from hwprune.budget.plan import Plan
from hwprune.errors import InputError
from hwprune.network import Masks, cut, trace, verify_cut
from hwprune.pruning import price

from . import models

IMAGE = torch.randn(2, 3, 32, 32)


def halves(network):
    return {group.name: list(range(0, group.channels, 2)) for group in network.cuttable}


def test_module_attributes_agree_with_their_tensors():
    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(10, 12)
            self.conv = nn.Conv1d(12, 16, 3)
            self.norm = nn.GroupNorm(4, 16)
            self.depthwise = nn.Conv1d(16, 32, 3, groups=16)
            self.batch = nn.BatchNorm1d(32)
            self.prelu = nn.PReLU(32)
            self.up = nn.ConvTranspose1d(32, 16, 2, 2, groups=4)
            self.fc = nn.Linear(16, 8)
            self.last = nn.Linear(8, 3)

        def forward(self, x):
            x = self.norm(self.conv(self.words(x).transpose(1, 2)))
            x = self.up(self.prelu(self.batch(self.depthwise(x))))
            return self.last(self.fc(x.mean(2)).relu())

    model = Everything()
    network = trace(model, torch.randint(0, 10, (2, 9)))
    assert {group.name: group.channels for group in network.cuttable} == {"words": 12, "conv": 4, "fc": 8}
    smaller = cut(model, network.cuts({"words": range(5), "conv": [0, 2, 3], "fc": [1, 7]}))
    assert (smaller.words.num_embeddings, smaller.words.embedding_dim) == (10, 5)
    assert (smaller.conv.in_channels, smaller.conv.out_channels) == (5, 12)
    assert (smaller.norm.num_groups, smaller.norm.num_channels) == (3, 12)
    assert (smaller.depthwise.in_channels, smaller.depthwise.out_channels, smaller.depthwise.groups) == (12, 24, 12)
    assert smaller.batch.num_features == 24
    assert smaller.prelu.num_parameters == 24
    assert (smaller.up.in_channels, smaller.up.out_channels, smaller.up.groups) == (24, 12, 3)
    assert (smaller.fc.in_features, smaller.fc.out_features, smaller.last.in_features) == (12, 2, 2)
    assert (model.conv.out_channels, model.norm.num_groups) == (16, 4)


def test_the_right_values_stay():
    model = models.ResNet()
    network = trace(model, IMAGE)
    smaller = cut(model, network.cuts({"layer1.conv1": [1, 5, 6]}))
    keep = [1, 5, 6]
    assert torch.equal(smaller.layer1.conv1.weight, model.layer1.conv1.weight[keep])
    assert torch.equal(smaller.layer1.conv2.weight, model.layer1.conv2.weight[:, keep])
    assert torch.equal(smaller.layer1.bn1.running_var, model.layer1.bn1.running_var[keep])
    assert torch.equal(smaller.layer2.conv1.weight, model.layer2.conv1.weight)


def test_a_plan_is_replayed_from_json_on_a_fresh_instance():
    model = models.UNet()
    network = trace(model, IMAGE)
    kept = halves(network)
    plan = Plan(widths={name: len(channels) for name, channels in kept.items()}, cuts=network.cuts(kept))
    first = cut(model, network.cuts(kept))
    fresh = cut(models.UNet(), Plan.from_json(plan.to_json()).cuts)
    fresh.load_state_dict(first.state_dict())
    assert json.loads(plan.to_json())["cuts"]
    assert torch.equal(first.eval()(IMAGE), fresh.eval()(IMAGE))


def test_flags_modes_and_the_original_stay():
    model = models.Frozen()
    model.layer1.eval()
    network = trace(model, IMAGE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller = cut(model, network.cuts(halves(network)))
    assert [p.requires_grad for p in smaller.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in smaller.parameters())


def test_what_is_shared_with_the_model_is_cut_under_all_of_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.project, self.other = nn.Embedding(11, 8), nn.Linear(8, 11), nn.Linear(8, 8)
            self.project.weight = self.words.weight

        def forward(self, x):
            return self.project(self.words(x) + self.other(self.words(x)))

    model = Tied()
    cuts = {"words.weight": {1: [0, 2, 5]}, "other.weight": {0: [0, 2, 5], 1: [0, 2, 5]}, "other.bias": {0: [0, 2, 5]}}
    smaller = cut(model, cuts, shared=True)
    assert smaller.project.weight is smaller.words.weight
    assert smaller.words.weight.shape == (11, 3)
    assert smaller.project.bias is model.project.bias
    assert smaller(torch.arange(4)).shape == (4, 11)


def test_shared_parameters_stay_shared():
    model = models.Shared()
    network = trace(model, IMAGE)
    smaller = cut(model, network.cuts(halves(network)))
    assert smaller.left.weight is smaller.right.weight
    assert smaller.right.weight.shape == (4, 6, 1, 1)
    assert (smaller.right.in_channels, smaller.right.out_channels) == (6, 4)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False) if name.endswith("t.weight")]
    assert names == ["left.weight", "right.weight"]


def test_a_weight_normalised_convolution_is_cut():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), conv, nn.ReLU(), nn.Conv2d(8, 2, 1))
    network = trace(model, IMAGE)
    assert [group.name for group in network.cuttable] == ["0"]
    assert "no direction" in next(group.frozen for group in network.frozen if group.name == "1")
    smaller = cut(model, network.cuts({"0": [2, 3, 1]}))
    assert smaller[1].in_channels == 3
    assert smaller(IMAGE).shape == model(IMAGE).shape


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ({"nothing.weight": {0: [0]}}, "'nothing.weight', which this model does not have"),
        ({"fc.weight": {2: [0]}}, "dimension 2 of fc.weight, which has 2"),
        ({"fc.weight": {0: [0, 10]}}, "0…10 of dimension 0 of fc.weight, which has 10"),
        ({"fc.weight": {0: []}}, "positions none"),
        ({"fc.weight": {0: [-1]}}, "-1…-1"),
    ],
)
def test_a_plan_of_another_model_is_refused(cuts, message):
    with pytest.raises(InputError, match=message) as caught:
        cut(models.ResNet(), cuts)
    assert caught.value.hint


def test_half_a_convolution_group_is_refused():
    with pytest.raises(InputError, match="whole number of its groups"):
        cut(nn.Conv2d(8, 8, 3, groups=4), {"weight": {0: [0, 1, 2]}, "bias": {0: [0, 1, 2]}})


class Squeezes(nn.Module):
    """Drops every dimension of size 1, whichever it is."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.up, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, width, 1), nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.up(self.stem(x)).relu().mean((2, 3), keepdim=True).squeeze())


def test_the_last_channel_but_one_stays_where_a_single_one_would_be_squeezed_away():
    x = torch.randn(2, 3, 8, 8)
    for width in (3, 12):
        model = Squeezes(width)
        network = trace(model, x)
        assert {group.name: group.least for group in network.cuttable} == {"stem": 1, "up": 2}
        pricing = price(network, "macs")
        assert (pricing.widths["stem"][0], pricing.widths["up"][0]) == (1, 2)
        for kept in ({"stem": [3]}, {"up": [0, 2]}):
            verify_cut(model, cut(model, network.cuts(kept)), network, kept, x)
        masks = Masks(model, network)
        with pytest.raises(InputError, match="a single channel, which forward squeezes away, of group up"):
            masks.remove("up", range(1, width))
    frozen = {group.name: group.frozen for group in trace(Squeezes(2), x).frozen}
    assert "a single one is squeezed away" in frozen["up"]
