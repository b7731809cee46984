"""Peak memory against a simulation of the exported graph, against ONNX Runtime's allocator, and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.deploy import channel_block, measure_memory
from hwprune.footprint import footprint, steps
from hwprune.network import trace
from hwprune.targets import Runtime, Target, runtime_for

from ..network import models
from ..network.random_network import RandomNetwork
from .networks import MODELS, Inception, Traced, WideDenseNet, conv_bn, unit
from .simulation import peak_bytes

TARGET = Target(name="local", runtime="onnxruntime")
ONNXRUNTIME = runtime_for(TARGET)


class Plain(Runtime):
    """Runs every operator of a graph by itself."""

    name = "plain"

    def fuses(self, op: str, into: str, *, rank: int = 4, chain: Sequence[str] = ()) -> bool:
        return False


def peak(subject: Traced, widths: dict[str, int], runtime: Runtime = ONNXRUNTIME) -> int:
    return footprint(subject.network, runtime, widths=widths).activation_bytes


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"excite"}))  # exported SiLU is two nodes
def test_the_peak_is_that_of_executing_the_exported_graph(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    subject = Traced(MODELS[name](), side=16 if name == "flattened" else 32)
    for seed in (0, 1):
        widths = subject.widths(seed)
        assert peak(subject, widths, Plain()) == peak_bytes(subject.exported(widths, tmp_path / "model.onnx"))


@pytest.mark.parametrize("seed", range(8))
def test_activations_of_random_networks_are_those_of_the_network_really_cut(seed: int) -> None:
    torch.manual_seed(seed)
    subject = Traced(RandomNetwork(seed), side=16)
    for other in range(1, 6):
        widths = subject.widths(other)
        again = trace(subject.cut(widths), subject.example, verify=False)
        expected = [(a.maker, a.elements.at(again.dense_widths)) for a in again.activations]
        assert [(a.maker, a.elements.at(widths)) for a in subject.network.activations] == expected
        assert subject.network.parameters_at(widths) == again.total_parameters
        smaller = footprint(again, ONNXRUNTIME)
        found = footprint(subject.network, ONNXRUNTIME, widths=widths)
        assert (found.memory_bytes, found.parameters) == (smaller.memory_bytes, smaller.parameters)


class Expanded(nn.Module):
    """Inverted residuals with SiLU and squeeze-excite, which ONNX Runtime fuses in its own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32, 3, 2), nn.SiLU())
        self.expand = nn.Sequential(conv_bn(32, 96, 1), nn.SiLU())
        self.deep = nn.Sequential(conv_bn(96, 96, 3, 1, 96), nn.SiLU())
        self.down = nn.Conv2d(96, 16, 1)
        self.up = nn.Conv2d(16, 96, 1)
        self.project = conv_bn(96, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(self.expand(x))
        y = y * torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).mean((2, 3)))


class WideUNet(nn.Module):
    """One skip, at widths that fill blocks of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(unit(3, 32), unit(32, 32))
        self.middle = nn.Sequential(unit(32, 64), unit(64, 64))
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.merge = unit(64, 32)
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.head(self.merge(torch.cat([skip, self.up(self.middle(F.max_pool2d(skip, 2)))], 1)))


@pytest.mark.parametrize(
    ("build", "side"),
    [
        (models.ResNet, 64),
        (WideUNet, 48),
        (WideDenseNet, 64),
        (lambda: Inception(16), 64),
        (Expanded, 64),
        (models.ViT, 32),
    ],
    ids=["residual", "unet", "densenet", "inception", "expanded", "tokens"],
)
def test_the_peak_is_what_the_allocator_of_onnx_runtime_counts(
    build: Callable[[], nn.Module], side: int, tmp_path: Path
) -> None:
    """To the byte, at widths that fill the runtime's blocks."""
    torch.manual_seed(0)
    subject = Traced(build(), side)
    step = channel_block(TARGET)
    for seed in (0, 1):
        widths = subject.widths(seed, step)
        subject.exported(widths, tmp_path / "model.onnx")
        memory = measure_memory(tmp_path / "model.onnx", TARGET)
        if memory is None:
            pytest.skip("this onnxruntime does not tell what it allocates")
        assert memory.activations == pytest.approx(peak(subject, widths), rel=0.03 if build is models.ViT else 0)


def held(model: nn.Module, example: Tensor, runtime: Runtime) -> list[tuple[str, float]]:
    """Layers with a kernel, and how many numbers are held while it runs."""
    network = trace(model.eval(), example)
    return [(step.layer, step.bytes_at(network.dense_widths) / 4) for step in steps(network, runtime)]


class Branches(nn.Module):
    """(x → a → relu) + (x → b), all of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x)) + self.b(x)


def test_by_hand() -> None:
    example = torch.zeros(1, 2, 4, 4)  # 32 numbers, as every tensor here
    assert held(Branches(), example, Plain()) == [("a", 64), ("relu", 64), ("b", 96), ("add", 128)]
    # b adds what a left behind, in place; the relu is inside a
    assert held(Branches(), example, ONNXRUNTIME) == [("a", 64), ("b", 64)]
    double = nn.Sequential(nn.Conv2d(2, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(32, 3))
    assert held(double, example, ONNXRUNTIME) == [("0", 64), ("1", 96), ("3", 32 + 32 + 3)]
    assert held(nn.Sequential(nn.MaxPool2d(2), nn.Mish()), example, Plain()) == [("0", 40), ("1", 32 + 8 + 8 + 8)]


def test_precision_decides_the_bytes_of_an_activation() -> None:
    network = trace(Branches(), torch.zeros(1, 2, 4, 4))
    peaks = [footprint(network, ONNXRUNTIME, precision).activation_bytes for precision in ("fp32", "fp16", "int8")]
    assert peaks == [256, 128, 64]


def test_inputs_of_whole_numbers_keep_their_size() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)

        def forward(self, words: Tensor) -> Tensor:
            return self.embedding(words)

    network = trace(Words(), torch.zeros(1, 5, dtype=torch.int64))
    assert footprint(network, ONNXRUNTIME, "fp16").activation_bytes == 5 * 8 + 5 * 4 * 2
