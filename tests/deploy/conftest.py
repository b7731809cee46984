"""Networks of the kinds that are deployed, with normalisation statistics as after training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from hwprune.deploy import Bundle, export_onnx, write_bundle
from hwprune.targets import load_target


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.down = nn.Sequential(nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(torch.relu(x + self.body(x)))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, stride=2), nn.BatchNorm2d(8))
        self.leave = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(torch.cat([x, self.up(self.deep(x))], 1))


class Mobile(nn.Module):
    """MobileNetV2's inverted residual, between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(8, 32, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            nn.Conv2d(32, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.block(x))


def lived_in(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.normal_(module.running_mean)
    return model


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {kind.__name__: lived_in(kind()).eval() for kind in (Residual, UNet, Mobile)}


@pytest.fixture(scope="session")
def exported(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each network as an ONNX file of batch 2."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        name: export_onnx(model, torch.zeros(2, 3, 16, 16), folder / f"{name}.onnx").path
        for name, model in networks.items()
    }


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def bundle(networks: dict[str, nn.Module], exported: dict[str, Path], images: Tensor, tmp_path: Path) -> Bundle:
    return write_bundle(
        tmp_path / "bundle",
        engine=exported["Residual"],
        model=networks["Residual"],
        example=images,
        target=load_target("local-onnxruntime"),
    )


class ArrayEngine(SimpleNamespace):
    """An engine whose arithmetic is a Python function on arrays; refuses every other batch than its own."""

    def run(self, feeds):
        for port in self.inputs:
            assert feeds[port["name"]].shape == tuple(port["shape"])
        result = self.function(*(feeds[port["name"]] for port in self.inputs))
        return list(result) if isinstance(result, tuple) else [result]


@pytest.fixture
def array_engine():
    def make(function, inputs, outputs):
        ports = [
            [{"name": f"{base}{i}", "shape": list(shape), "dtype": "float32"} for i, shape in enumerate(shapes)]
            for base, shapes in (("in", inputs), ("out", outputs))
        ]
        return ArrayEngine(function=function, inputs=ports[0], outputs=ports[1])

    return make
