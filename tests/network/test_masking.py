"""Channels switched off: zeros in the right places, and back again."""

import pytest
import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.network import Masks, cut, masked, trace

from . import models

IMAGE = torch.randn(2, 3, 32, 32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.ResNet()


@pytest.fixture
def network(model):
    return trace(model, IMAGE, verify=False)


def test_a_masked_network_is_zero_exactly_where_channels_were_removed(model, network):
    nn.init.uniform_(model.layer1.bn1.running_mean, 1, 2)
    nn.init.uniform_(model.layer1.bn1.running_var, 2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    off = masked(model, network, {"layer1.conv1": [i for i in range(16) if i != 3]})
    assert not off.layer1.conv1.weight[3].any()
    assert not off.layer1.conv2.weight[:, 3].any()
    assert (off.layer1.bn1.running_mean[3], off.layer1.bn1.running_var[3]) == (0, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    changed = {name for name, tensor in off.state_dict().items() if not torch.equal(tensor, before[name])}
    bn = {f"layer1.bn1.{name}" for name in ("weight", "running_mean", "running_var")}
    assert changed == {"layer1.conv1.weight", "layer1.conv2.weight"} | bn


def test_masks_hold_through_optimizer_steps_and_end_in_the_same_network(model, network):
    masks = Masks(model, network)
    masks.remove("layer1.conv1", [0, 4])
    masks.remove("stem.0.0", range(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        model(IMAGE).square().mean().backward()
        optimizer.step()
        masks.apply()
        optimizer.zero_grad()
    assert not model.layer1.conv1.weight[[0, 4]].any()
    assert not model.layer2.down[0].weight[:, :8].any()
    assert masks.kept["stem.0.0"] == list(range(8, 16))
    model.eval()
    smaller = cut(model, masks.kept_plan())
    assert torch.allclose(smaller(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-6)


def test_a_channel_comes_back_with_the_values_it_had(model, network):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = Masks(model, network)
    masks.remove("layer1.conv1", [2, 5])
    masks.apply()
    masks.remove("stem.0.0", [1])  # crosses layer1.conv1.weight, whose rows 2 and 5 are zero already
    masks.apply()
    masks.restore("layer1.conv1", [2, 5])
    weight = model.layer1.conv1.weight
    assert not weight[:, 1].any()
    others = [i for i in range(16) if i != 1]
    assert torch.equal(weight[:, others], before["layer1.conv1.weight"][:, others])
    masks.restore("stem.0.0", [1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert masks.kept == {group.name: list(range(group.channels)) for group in network.cuttable}


def test_the_values_saved_are_the_last_ones_used(model, network):
    masks = Masks(model, network)
    masks.remove("layer1.conv1", [2])
    masks.apply()
    masks.restore("layer1.conv1", [2])
    with torch.no_grad():
        model.layer1.conv1.weight[2] = 7.0
    masks.remove("layer1.conv1", [2])
    masks.apply()
    assert not model.layer1.conv1.weight[2].any()
    masks.restore("layer1.conv1", [2])
    assert (model.layer1.conv1.weight[2] == 7.0).all()


def test_the_state_continues_in_another_process(model, network):
    masks = Masks(model, network)
    masks.remove("layer2.conv1", [0, 9])
    values = model.layer2.conv1.weight[[0, 9]].clone()
    masks.apply()
    other = models.ResNet()
    other.load_state_dict(model.state_dict())
    again = Masks(other, network)
    again.load_state_dict(masks.state_dict())
    assert again.kept == masks.kept
    assert again.kept_plan() == masks.kept_plan()
    again.restore("layer2.conv1", [0, 9])
    assert torch.equal(other.layer2.conv1.weight[[0, 9]], values)


def test_wrong_groups_and_channels_are_refused(model, network):
    masks = Masks(model, network)
    with pytest.raises(InputError, match="'nothing' does not exist"):
        masks.remove("nothing", [0])
    with pytest.raises(InputError, match="'fc' is frozen: the model's output"):
        masks.remove("fc", [0])
    with pytest.raises(InputError, match="channels 0 to 15, not 16"):
        masks.remove("stem.0.0", [16])
    with pytest.raises(InputError, match="no channel of group stem"):
        masks.remove("stem.0.0", range(16))
    assert len(masks.kept["stem.0.0"]) == 16
    with pytest.raises(InputError, match="is frozen"):
        masked(model, network, {"fc": [0]})
    with pytest.raises(InputError, match="not -1"):
        masked(model, network, {"stem.0.0": [-1]})
