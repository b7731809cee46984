"""A network of real size: what is known of ResNet-50, and an exact cut of it."""

import torch
import torch.nn.functional as F
from torch import nn

from hwprune.network import cut, trace, verify_cut

from .models import conv_bn


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.reduce, self.conv, self.expand = (
            conv_bn(inputs, width, 1),
            conv_bn(width, width, 3, stride),
            conv_bn(width, 4 * width, 1),
        )
        self.down = conv_bn(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x):
        return F.relu(self.expand(F.relu(self.conv(F.relu(self.reduce(x))))) + self.down(x))


def resnet50():
    layers = [conv_bn(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def test_resnet50():
    torch.manual_seed(0)
    model = resnet50()
    example = torch.randn(1, 3, 224, 224)
    network = trace(model, example)
    assert network.total_parameters == 25_557_032  # He et al. 2016, as torchvision counts it
    assert sum(layer.parameters for layer in network.layers) == 25_557_032
    assert sum(layer.macs for layer in network.layers) == 4_089_184_256
    # the stem, two widths inside each of 16 blocks, one residual stream per stage
    assert sorted(group.channels for group in network.cuttable) == sorted(
        [
            64,
            *(width for width, n in ((64, 3), (128, 4), (256, 6), (512, 3)) for _ in range(2 * n)),
            256,
            512,
            1024,
            2048,
        ]
    )
    kept = {group.name: list(range(group.channels // 3, group.channels)) for group in network.cuttable}
    smaller = cut(model, network.cuts(kept))
    report = verify_cut(model, smaller, network, kept, example)
    widths = {**network.dense_widths, **{name: len(channels) for name, channels in kept.items()}}
    assert report.parameters == sum(layer.parameters_at(widths) for layer in network.layers)
