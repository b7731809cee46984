"""The same groups, position by position, as torch-pruning finds where it is right."""

import pytest
import torch
import torch_pruning
from torch import nn

from hwprune.network import trace

from . import models

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def theirs(model, example):
    """Group → {(module, side, position)} per channel, as sets of sets."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    names = {id(module): name for name, module in model.named_modules()}
    found = set()
    for group in graph.get_all_groups(root_module_types=list(LAYERS)):
        channels = {}
        for item in group:
            name = names.get(id(item.dep.target.module))
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            for root, position in zip(item.root_idxs, item.idxs, strict=True):
                if name is not None:
                    channels.setdefault(root, set()).add((name, side, position))
        found.add(frozenset(frozenset(channel) for channel in channels.values()))
    return found


def ours(model, example):
    modules = dict(model.named_modules())
    found = set()
    for group in trace(model, example).groups:
        if not any(member.role == "out" for member in group.members):
            continue  # the network's input: torch-pruning does not list it
        channels = [set() for _ in range(group.channels)]
        for member in group.members:
            name = member.tensor.rpartition(".")[0]
            side = "in" if member.role == "in" and isinstance(modules[name], LAYERS) else "out"
            for channel, positions in enumerate(member.index.tolist()):
                channels[channel] |= {(name, side, position) for position in positions}
        found.add(frozenset(frozenset(channel) for channel in channels))
    return found


@pytest.mark.parametrize(
    "factory",
    [models.ResNet, models.UNet, models.MobileNetV2, models.Flattened, models.SqueezeExcite, models.DenseNet],
)
def test_the_groups_of_plain_cnns_are_those_of_torch_pruning(factory):
    model = factory()
    example = torch.randn(1, 3, 16, 16) if factory is models.Flattened else torch.randn(1, 3, 32, 32)
    assert ours(model, example) == theirs(model, example)
