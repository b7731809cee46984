"""What was traced holds for random networks, cut at random: outputs, shapes, costs."""

import random

import pytest
import torch

from hwprune.network import cut, trace, verify_cut

from .random_network import RandomNetwork


@pytest.mark.parametrize("seed", range(60))
def test_a_random_network_cut_at_random_is_the_masked_original_and_costs_what_was_said(seed):
    model = RandomNetwork(seed).eval()
    example = torch.randn(2, 3, 16, 16)
    network = trace(model, example)
    assert not [group for group in network.frozen if group.frozen.startswith("cutting it fails")]
    choose = random.Random(seed)
    kept = {
        group.name: sorted(choose.sample(range(group.channels), choose.randint(1, group.channels)))
        for group in network.cuttable
    }
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, example)
    widths = {**network.dense_widths, **{name: len(channels) for name, channels in kept.items()}}
    for before, after in zip(network.layers, trace(smaller, example, verify=False).layers, strict=True):
        assert before.name == after.name
        assert before.output.at(widths) == after.output.shape
        assert [operand.at(widths) for operand in before.inputs] == [operand.shape for operand in after.inputs]
        assert (before.macs_at(widths), before.parameters_at(widths)) == (after.macs, after.parameters)


@pytest.mark.parametrize("seed", range(60, 80))
def test_groups_cover_every_position_of_what_they_touch_exactly_once(seed):
    model = RandomNetwork(seed)
    network = trace(model, torch.randn(1, 3, 16, 16), verify=False)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    positions: dict[tuple[str, int], list[int]] = {}
    for group in network.groups:
        for member in group.members:
            assert member.index.shape[0] == group.channels
            positions.setdefault((member.tensor, member.dim), []).extend(member.index.ravel().tolist())
    for (name, dim), found in positions.items():
        assert sorted(found) == list(range(tensors[name].shape[dim]))
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert weights == {name for name, dim in positions if dim == 0 and name in weights}
    assert len({group.name for group in network.groups}) == len(network.groups)
