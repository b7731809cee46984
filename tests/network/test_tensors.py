"""Tensors that take memory: what is stored, what flows, and who reads it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.budget import Axis
from hwprune.network import Network, trace


class Net(nn.Module):
    """Two results, a view, a buffer that is read and one that is not, a weight that is computed from two."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, bias=False)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.gain = nn.Parameter(torch.rand(4, 1, 1, 1))
        self.direction = nn.Parameter(torch.rand(4, 8, 1, 1))
        self.unread = nn.Parameter(torch.rand(3, 3))
        self.register_buffer("shift", torch.rand(8, 1, 1))
        self.register_buffer("counter", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x) * self.scale + self.shift
        pooled, _ = F.max_pool2d(y, 2, return_indices=True)
        return F.conv2d(pooled, self.gain * self.direction), pooled.flatten(1)


def traced() -> Network:
    return trace(Net(), torch.zeros(2, 3, 8, 8))


def test_what_flows() -> None:
    found = {activation.maker: activation for activation in traced().activations}
    assert list(found) == [None, "a", "mul", "add", "max_pool2d_with_indices", "convolution"]
    assert found[None].readers == ("a",)
    assert found["a"].dims == (Axis(2), Axis(8), Axis(6), Axis(6))  # the second result shows the channels: frozen
    assert found["mul"].readers == ("add",)
    pooled = found["max_pool2d_with_indices"]  # its indices are read by nobody
    assert (pooled.readers, pooled.output) == (("convolution",), True)
    assert (found["convolution"].readers, found["convolution"].output) == ((), True)


def test_what_is_stored_once_and_what_the_model_holds() -> None:
    network = traced()
    assert {tensor.name: (tensor.layer, tensor.elements.at({})) for tensor in network.stored} == {
        "a.weight": ("a", 8 * 27),
        "scale": ("mul", 8),
        "shift": ("add", 8),
        "direction, gain": ("convolution", 32),
    }
    assert {tensor.name: tensor.layer for tensor in network.parameters} == {
        "a.weight": "a",
        "scale": "mul",
        "gain": "convolution",
        "direction": "convolution",
        "unread": None,
    }


def test_sizes_follow_the_widths() -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5)), torch.zeros(1, 3, 8, 8))
    weight = next(tensor for tensor in network.stored if tensor.name == "2.weight")
    assert weight.dims == (Axis(5), Axis(0, (("0", 36),)))
    assert weight.elements.at({"0": 3}) == 5 * 36 * 3
    assert [a.elements.at({"0": 3}) for a in network.activations] == [192, 3 * 36, 5]
    assert network.parameters_at({"0": 3}) == 3 * 27 + 3 + 5 * 36 * 3 + 5
    assert network.parameters_at(network.dense_widths) == network.total_parameters
