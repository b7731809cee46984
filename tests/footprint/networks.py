"""Networks that the footprint was not written for, their random cuts, and what their exports hold."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.deploy import export_onnx
from hwprune.network import Network, cut, trace

from ..network import models
from ..network.models import conv_bn


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(conv_bn(inputs, outputs, kernel, stride), nn.ReLU())


class Inception(nn.Module):
    """Four branches side by side, twice."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = unit(3, 2 * width, 3, 2)
        self.a = unit(2 * width, 2 * width, 1)
        self.b = nn.Sequential(unit(2 * width, 3 * width, 1), unit(3 * width, 4 * width))
        self.c = nn.Sequential(unit(2 * width, width, 1), unit(width, 2 * width, 5))
        self.d = unit(2 * width, 2 * width, 1)
        self.e = nn.Sequential(unit(10 * width, 4 * width, 1), unit(4 * width, 4 * width))
        self.f = unit(10 * width, 3 * width, 1)
        self.head = nn.Linear(7 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.a(x), self.b(x), self.c(x), self.d(F.max_pool2d(x, 3, 1, 1))], 1)
        return self.head(torch.cat([self.e(x), self.f(x)], 1).mean((2, 3)))


class WideDenseNet(nn.Module):
    """Batch norm and ReLU in front of convolutions, everything concatenated; widths that fill blocks of 16."""

    def __init__(self, growth: int = 16) -> None:
        super().__init__()
        self.stem = unit(3, 2 * growth, 3, 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth * (2 + i)) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(growth * (2 + i), growth, 3, padding=1, bias=False) for i in range(4))
        self.norm = nn.BatchNorm2d(6 * growth)
        self.head = nn.Linear(6 * growth, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.head(F.relu(self.norm(torch.cat(features, 1))).mean((2, 3)))


class SharedConvolution(nn.Module):
    """One convolution with two batch norms, which cannot be folded into it; two batch norms in a row, which can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8), nn.BatchNorm2d(8))
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms:
            x = F.relu(norm(self.conv(x)))
        return self.head(x)


class Reparametrised(nn.Module):
    """Weights that are computed: normalised, and an embedding added to every position."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 4, 4))
        self.b = nn.Linear(8, 12)
        self.c = nn.InstanceNorm2d(12, affine=True)
        self.position = nn.Embedding(64, 8)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).transpose(1, 2) + self.position(torch.arange(64))
        x = F.relu(self.b(x)).transpose(1, 2).reshape(x.shape[0], -1, 8, 8)
        return self.head(self.c(x))


MODELS = {
    "residual": models.ResNet,
    "unet": models.UNet,
    "mobilenet": models.MobileNetV2,
    "grouped": models.Grouped,
    "flattened": models.Flattened,
    "densenet": models.DenseNet,
    "inception": Inception,
    "split": models.Chunked,
    "excite": models.SqueezeExcite,
    "shared": models.Shared,
    "shared conv": SharedConvolution,
    "padded": models.OptionA,
    "shuffled": models.ShuffleNet,
    "pixels": models.PixelShuffle,
    "functional": models.Functional,
    "reparametrised": Reparametrised,
}


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """No two tensors are equal: the exporter would store them once."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


class Traced:
    """A network, its trace, and its cuts."""

    def __init__(self, model: nn.Module, side: int = 32) -> None:
        self.model = lively(model)
        self.example = torch.randn(1, 3, side, side)
        self.network: Network = trace(self.model, self.example)

    def widths(self, seed: int, step: int = 1) -> dict[str, int]:
        """Random ones; the dense ones for seed 0."""
        chooser = random.Random(seed)
        return {
            group.name: chooser.randrange(min(step, group.channels), group.channels + 1, step)
            if seed
            else group.channels
            for group in self.network.cuttable
        }

    def cut(self, widths: dict[str, int]) -> nn.Module:
        kept = {group: list(range(width)) for group, width in widths.items()}
        return cut(self.model, self.network.cuts(kept))

    def exported(self, widths: dict[str, int], path: Path) -> onnx.ModelProto:
        export_onnx(self.cut(widths), self.example, path)
        return onnx.load(path)


def stored(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of every initializer but scalars and shapes."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array.nbytes for name, array in arrays.items() if array.ndim and array.dtype != np.int64}
