"""Networks the tests trace: plain PyTorch, one for each way channels can be coupled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = conv_bn(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    """Two stages; ``layer1`` shares the stem's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16), nn.ReLU(inplace=True))
        self.layer1 = BasicBlock(16, 16)
        self.layer2 = BasicBlock(16, 32, 2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.layer2(self.layer1(self.stem(x))), 1).flatten(1))


class UNet(nn.Module):
    """Concatenation of an encoder's channels with those of a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(3, 8), nn.ReLU())
        self.down2 = nn.Sequential(conv_bn(8, 16), nn.ReLU())
        self.middle = nn.Sequential(conv_bn(16, 24), nn.ReLU())
        self.up2 = nn.ConvTranspose2d(24, 12, 2, 2)
        self.dec2 = nn.Sequential(conv_bn(28, 16), nn.ReLU())
        self.up1 = nn.ConvTranspose2d(16, 8, 2, 2)
        self.dec1 = nn.Sequential(conv_bn(16, 8), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        c = self.dec2(torch.cat([self.up2(c), b], 1))
        return self.head(self.dec1(torch.cat([a, self.up1(c)], 1)))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        hidden = inputs * factor
        self.add = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([] if factor == 1 else [conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True)]),
            conv_bn(hidden, hidden, 3, stride, hidden),
            nn.ReLU6(inplace=True),
            conv_bn(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.add else self.body(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, 1), InvertedResidual(8, 12, 2, 4), InvertedResidual(12, 12, 1, 4)
        )
        self.head = nn.Sequential(conv_bn(12, 40, 1), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(40, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean([2, 3]))


class Grouped(nn.Module):
    """A grouped convolution, then a grouped transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv_bn(3, 16)
        self.b = conv_bn(16, 24, groups=4)
        self.c = nn.ConvTranspose2d(24, 12, 2, 2, groups=4)
        self.d = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


class Chunked(nn.Module):
    """A gated block: one half multiplies the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv_bn(3, 24)
        self.b = nn.Conv2d(12, 8, 1)
        self.c = nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return self.c(torch.cat([self.b(first * second.sigmoid()), second], 1))


class FixedSplit(nn.Module):
    """Sizes written into forward: parts of 4 and 12 channels, then halves by number."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv_bn(3, 16)
        self.b = nn.Conv2d(4, 8, 1)
        self.c = nn.Conv2d(12, 8, 1)
        self.d = nn.Conv2d(8, 16, 1)
        self.e = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split([4, 12], 1)
        y = self.d(self.b(first) + self.c(second))
        return self.e(y[:, :8] + y[:, 8:])


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv_bn(3, 16)
        self.down = nn.Conv2d(16, 4, 1)
        self.up = nn.Conv2d(4, 16, 1)
        self.b = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        gate = self.up(F.relu(self.down(y.mean((2, 3), keepdim=True))))
        return self.b(y * gate.sigmoid())


class Flattened(nn.Module):
    """Every channel becomes 16 inputs of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 12, 3, 2, 1)
        self.fc1 = nn.Linear(12 * 16, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(torch.flatten(F.relu(self.b(F.relu(self.a(x)))), 1))))


class Shared(nn.Module):
    """One convolution used twice, another whose weight two modules own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv = nn.Conv2d(12, 12, 3, padding=1)
        self.left = nn.Conv2d(12, 8, 1, bias=False)
        self.right = nn.Conv2d(12, 8, 1, bias=False)
        self.right.weight = self.left.weight
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.conv(F.relu(self.stem(x))))))
        return self.head(torch.cat([self.left(x), self.right(x.neg())], 1))


class OptionA(nn.Module):
    """The CIFAR ResNet whose shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a = conv_bn(8, 16, stride=2)
        self.b = conv_bn(16, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(self.b(F.relu(self.a(x))) + shortcut)
        return self.fc(F.avg_pool2d(x, x.size(3)).view(x.size(0), -1))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1) for i in range(3))
        self.transition = nn.Conv2d(26, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.head(F.avg_pool2d(self.transition(torch.cat(features, 1)), 4).amax((2, 3)))


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ShuffleNet(nn.Module):
    """ShuffleNetV2's two kinds of block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.left = nn.Sequential(conv_bn(12, 12, 3, 2, 12), conv_bn(12, 12, 1), nn.ReLU())
        self.right = nn.Sequential(
            conv_bn(12, 12, 1), nn.ReLU(), conv_bn(12, 12, 3, 2, 12), conv_bn(12, 12, 1), nn.ReLU()
        )
        self.body = nn.Sequential(
            conv_bn(12, 12, 1), nn.ReLU(), conv_bn(12, 12, 3, 1, 12), conv_bn(12, 12, 1), nn.ReLU()
        )
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = shuffle(torch.cat([self.left(x), self.right(x)], 1), 2)
        kept, worked = x.chunk(2, 1)
        return self.head(shuffle(torch.cat([kept, self.body(worked)], 1), 2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(batch, tokens, width))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 24))
        self.position = nn.Parameter(torch.randn(1, 17, 24) * 0.02)
        self.norm1 = nn.LayerNorm(24)
        self.attention = Attention(24, 3)
        self.norm2 = nn.LayerNorm(24)
        self.fc1 = nn.Linear(24, 96)
        self.fc2 = nn.Linear(96, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x[:, 0])


class Functional(nn.Module):
    """Weights without modules: a convolution, a matrix, a per-channel scale, a standardised weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 3, 3, 3) * 0.3)
        self.scale = nn.Parameter(torch.rand(12, 1, 1))
        self.standardised = nn.Parameter(torch.randn(8, 12, 3, 3) * 0.2)
        self.matrix = nn.Parameter(torch.randn(8, 6))
        self.last = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.weight, padding=1)) * self.scale
        x = F.conv2d(x, self.standardised / (1 + self.standardised.flatten(1).norm(dim=1)).view(-1, 1, 1, 1))
        return self.last(F.relu(x.mean((2, 3)) @ self.matrix))


class Frozen(ResNet):
    """A backbone that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("fc"))


class Norms(nn.Module):
    """Group norm, instance norm, PReLU, and a layer norm over channels-last features (ConvNeXt)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.group_norm = nn.GroupNorm(4, 16)
        self.b = nn.Conv2d(16, 12, 3, padding=1)
        self.instance_norm = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
        self.prelu = nn.PReLU(12)
        self.c = nn.Conv2d(12, 10, 3, padding=1)
        self.plain = nn.InstanceNorm2d(10)
        self.d = nn.Conv2d(10, 8, 1)
        self.layer_norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)
        self.gamma = nn.Parameter(torch.ones(8) * 0.1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.group_norm(self.a(x)))
        x = self.prelu(self.instance_norm(self.b(x)))
        x = self.d(F.relu(self.plain(self.c(x))))
        y = self.gamma * self.down(F.gelu(self.up(self.layer_norm(x.permute(0, 2, 3, 1)))))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.b = nn.Conv2d(8, 5, 1)
        self.c = nn.Conv2d(20, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.pixel_unshuffle(self.b(F.relu(self.shuffle(self.a(x)))), 2))


class HardCoded(nn.Module):
    """A size in forward that no attribute knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 12, 3, 2, 1)
        self.fc1 = nn.Linear(12, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.fc2(F.relu(self.fc1(x.view(-1, 12))))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
