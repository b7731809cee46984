"""Small networks that hold what real ones do to channels, several things in each: an export takes a second."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.deploy.export import exported_proto
from hwprune.deploy.template import Template, template
from hwprune.network import Network, cut, trace

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Mixed(nn.Module):
    """Residual additions, a shortcut that pads channels, a depthwise convolution, squeeze and excitation, concat."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.padding = width // 2
        self.stem = nn.Sequential(conv_bn(3, width), nn.ReLU())
        self.expand = nn.Sequential(conv_bn(width, 2 * width, 1), nn.ReLU6())
        self.each = nn.Sequential(conv_bn(2 * width, 2 * width, 3, 1, 2 * width), nn.ReLU6())
        self.squeeze = nn.Conv2d(2 * width, width // 4, 1)
        self.excite = nn.Conv2d(width // 4, 2 * width, 1)
        self.project = conv_bn(2 * width, width, 1)
        self.down = conv_bn(width, 2 * width, stride=2)
        self.side = nn.Sequential(conv_bn(2 * width, width // 2, 1), nn.ReLU())
        self.fc = nn.Linear(5 * width // 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.each(self.expand(x))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        x = F.relu(x + self.project(y * gate))
        padding = (0, 0, 0, 0, self.padding, self.padding)
        x = F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], padding))
        return self.fc(torch.cat([x, self.side(x)], 1).mean((2, 3)))


class Shuffled(nn.Module):
    """A grouped convolution, an instance norm, channels shuffled by views, halves that go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32), nn.ReLU())
        self.grouped = nn.Sequential(conv_bn(32, 32, groups=8), nn.PReLU(32))
        self.mix = nn.Sequential(nn.Conv2d(32, 24, 1), nn.InstanceNorm2d(24, affine=True), nn.Hardswish())
        self.work = nn.Sequential(conv_bn(12, 12, 1), nn.ReLU())
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = self.mix(self.grouped(self.stem(x))).chunk(2, 1)
        x = torch.cat([kept, self.work(worked)], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(x)


class Upsampled(nn.Module):
    """A U-Net: pooling, transposed convolutions, skip connections by concatenation, with the image itself too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(conv_bn(3, 8), nn.ReLU())
        self.deep = nn.Sequential(conv_bn(8, 16), nn.ReLU())
        self.middle = nn.Sequential(conv_bn(16, 24), nn.ReLU())
        self.up1 = nn.ConvTranspose2d(24, 12, 2, 2)
        self.up2 = nn.ConvTranspose2d(28, 10, 2, 2)
        self.head = nn.Conv2d(21, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        a = self.enter(image)
        b = self.deep(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        return self.head(torch.cat([a, self.up2(torch.cat([self.up1(c), b], 1)), image], 1))


class Dense(nn.Module):
    """Batch norm before each convolution, over what was concatenated; two heads, one behind ``flatten``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, 2, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(10 + 7 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(10 + 7 * i, 7, 3, padding=1) for i in range(3))
        self.transition = nn.Conv2d(31, 12, 1)
        self.hidden = nn.Linear(12 * 16, 20)
        self.classes = nn.Linear(20, 5)
        self.boxes = nn.Conv2d(31, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        x = torch.cat(features, 1)
        pooled = F.avg_pool2d(self.transition(x), 2)
        return self.classes(F.relu(self.hidden(torch.flatten(pooled, 1)))), self.boxes(x)


class Transformer(nn.Module):
    """A patch embedding, attention, two perceptrons; the class token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 24))
        self.norm1 = nn.LayerNorm(24)
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)
        self.norm2 = nn.LayerNorm(24)
        self.fc1 = nn.Linear(24, 96)
        self.fc2 = nn.Linear(96, 24)
        self.fc3 = nn.Linear(24, 40)
        self.fc4 = nn.Linear(40, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head((x + self.fc4(F.silu(self.fc3(x))))[:, 0])


class Shared(nn.Module):
    """A convolution used twice, a weight of two modules, weights without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv = nn.Conv2d(12, 12, 3, padding=1)
        self.left = nn.Conv2d(12, 8, 1, bias=False)
        self.right = nn.Conv2d(12, 8, 1, bias=False)
        self.right.weight = self.left.weight
        self.weight = nn.Parameter(torch.randn(14, 16, 3, 3) * 0.1)
        self.matrix = nn.Parameter(torch.randn(14, 6))
        self.last = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.conv(F.relu(self.stem(x))))))
        x = torch.cat([self.left(x), self.right(x.neg())], 1)
        x = F.relu(F.conv2d(x, self.weight, padding=1))
        return self.last(F.relu(x.mean((2, 3)) @ self.matrix))


class Little(nn.Module):
    """Groups of so few channels that cuts cannot tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 3, 3, padding=1)
        self.c = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


KINDS = (Mixed, Shuffled, Upsampled, Dense, Transformer, Shared, Little)


def lived_in(model: nn.Module) -> nn.Module:
    """Every parameter and statistic has values of its own: the exporter would make one of two that are equal."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5) if tensor.dim() < 2 else nn.init.normal_(tensor, 0.0, 0.1)
    return model.eval()


@dataclass(frozen=True)
class Prepared:
    """A network, its trace, and its graph at any widths."""

    model: nn.Module
    network: Network
    made: Template

    @property
    def channels(self) -> dict[str, int]:
        return {group.name: group.channels for group in self.network.cuttable}

    def widths(self, seed: int) -> dict[str, int]:
        """Anything from one channel to all."""
        rng = random.Random(seed)
        return {name: rng.randint(1, count) for name, count in self.channels.items()}

    def really(self, widths: Mapping[str, int]) -> onnx.ModelProto:
        """The network cut to these widths, and exported."""
        kept = {name: list(range(width)) for name, width in widths.items()}
        return exported_proto(cut(self.model, self.network.cuts(kept)), IMAGE)


@functools.cache
def prepared(kind: type[nn.Module]) -> Prepared:
    torch.manual_seed(0)
    model = lived_in(kind())
    network = trace(model, IMAGE, head_sizes=True)
    return Prepared(model, network, template(model, IMAGE, network))
