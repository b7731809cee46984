"""Rows are output neurons, columns input channels: shown by gradients, not by shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwprune.regrow.layout import Layout

MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3), (2, 4, 7)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2)), (2, 4, 5, 5)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (2, 6, 5, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
    "transposed": (nn.ConvTranspose2d(6, 5, (3, 2), stride=2), (2, 6, 4, 4)),
    "grouped transposed": (nn.ConvTranspose1d(6, 9, 3, groups=3), (2, 6, 5)),
}


def touched(module: nn.Module, x: Tensor, channel: int) -> Tensor:
    """Which elements of the weight one output channel depends on, given this input."""
    module.zero_grad()
    module(x)[:, channel].sum().backward()
    return module.weight.grad != 0


@pytest.mark.parametrize("name", MODULES)
def test_a_row_is_a_neuron_and_channels_lie_together(name: str) -> None:
    module, shape = MODULES[name]
    layout, x = Layout.of(module, "weight"), torch.rand(shape) + 1
    places = torch.arange(module.weight.numel()).view_as(module.weight)
    rows = layout.rows(places)
    inputs = layout.inputs(tuple(module.weight.shape))
    assert len(rows) == module(x).shape[1]
    for channel, row in enumerate(rows):
        assert set(places[touched(module, x, channel)].tolist()) == set(row.tolist())
    for one in range(shape[1]):
        alone = torch.zeros_like(x)
        alone[:, one] = x[:, one]
        read = torch.stack([touched(module, alone, channel) for channel in range(len(rows))]).any(0)
        assert set((layout.rows(read).nonzero()[:, 1] % inputs).tolist()) == {one % inputs}
    assert torch.equal(layout.weight(rows, tuple(module.weight.shape)), places)


def test_an_embedding_is_a_linear_layer_over_tokens() -> None:
    module = nn.Embedding(7, 3)
    layout = Layout.of(module, "weight")
    rows = layout.rows(module.weight)
    assert torch.equal(nn.functional.one_hot(torch.tensor([2, 5]), 7).float() @ rows.T, module(torch.tensor([2, 5])))
    assert torch.equal(layout.weight(rows, (7, 3)), module.weight)
    assert layout.lookup


@pytest.mark.parametrize("module", [nn.MultiheadAttention(8, 2), nn.LSTM(5, 3)])
def test_other_parameters_are_outputs_by_inputs(module: Any) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 2:
            assert torch.equal(Layout.of(module, name).rows(parameter), parameter)
