"""Models that were wrapped for compiling or training: what is inside is traced, and that is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

import hwprune
from hwprune.budget import Plan
from hwprune.compression import CompressConfig, Progress
from hwprune.compression.job import prepare
from hwprune.deploy import export_onnx
from hwprune.errors import ModelError, ModelWarning
from hwprune.network import cut, load_model, trace, verify_cut
from hwprune.network.wrappers import unwrapped

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(16, 2)).eval()


def never(graph: Any, inputs: Any) -> Any:
    raise AssertionError("nothing of this is to be compiled")


def in_fabric(model: nn.Module) -> nn.Module:
    wrapped = Fabric(accelerator="cpu", devices=1).setup_module(model)
    assert isinstance(wrapped, nn.Module)
    return wrapped


WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend=never),
    "parallel": nn.DataParallel,
    "in Fabric": in_fabric,
    "compiled in Fabric": lambda model: in_fabric(torch.compile(model, backend=never)),
    "compiled in parallel": lambda model: nn.DataParallel(torch.compile(model, backend=never)),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_what_is_inside_is_read_and_that_is_told(wrapping: str) -> None:
    model = build()
    wrapped = WRAPPINGS[wrapping](model)
    for read in (load_model, unwrapped):
        with pytest.warns(ModelWarning, match="the Sequential inside"):
            assert read(wrapped) is model
    with pytest.warns(ModelWarning, match="names are as in it"):
        network = trace(wrapped, IMAGE)
    assert network.dense_widths == trace(model, IMAGE).dense_widths


def test_a_plan_is_replayed_on_what_is_inside() -> None:
    model = build()
    plan = Plan(widths={"0": 3}, cuts=trace(model, IMAGE).cuts({"0": [1, 4, 9]}))
    with pytest.warns(ModelWarning):
        smaller = hwprune.load(plan, nn.DataParallel(model))
    assert smaller.state_dict()["0.weight"].shape == (3, 3, 3, 3)


def test_a_module_that_only_has_such_an_attribute_is_left_alone() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self._orig_mod = build(), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x) * 2

    model = Own()
    assert load_model(model) is model


def in_place(model: nn.Module) -> None:
    model.compile(backend=never)


def a_part(model: nn.Module) -> None:
    model[0] = torch.compile(model[0], backend=never)  # type: ignore[index, operator]


@pytest.mark.parametrize("change", [in_place, a_part])
def test_compiled_in_place_or_in_part_it_is_traced_cut_and_exported(
    change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    model = build()
    change(model)
    network = trace(model, IMAGE)
    (group,) = network.cuttable
    kept = {group.name: [1, 4, 9]}
    smaller = cut(model, network.cuts(kept))
    assert verify_cut(model, smaller, network, kept, IMAGE).parameters == 3 * 27 + 3 + 6 + 6 + 2
    assert export_onnx(smaller, IMAGE, tmp_path / "m.onnx").outputs == ("output",)


def test_a_compiled_forward_put_on_the_model_is_refused() -> None:
    model = build()
    model.forward = torch.compile(model.forward, backend=never)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="forward of Sequential was replaced") as caught:
        trace(model, IMAGE)
    assert "model.compile()" in caught.value.hint


def test_compress_says_it_where_it_says_everything(tmp_path: Path) -> None:
    class Listening(Progress):
        def __init__(self) -> None:
            super().__init__(quiet=True)
            self.said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    from hwprune.training import Data

    samples = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 2)
    config = CompressConfig(
        model="in memory", data="in memory", input_shape=(1, 3, 8, 8), output=tmp_path / "run", macs="0.5x"
    )
    listening = Listening()
    model = build()
    job = prepare(config, listening, model=nn.DataParallel(model), data=Data(train=samples, validation=samples))
    assert type(job.model) is nn.Sequential
    assert any("inside DataParallel" in text for text in listening.said)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(nn.ReLU()), "1 is TorchScript"),
        (lambda: nn.LazyConv2d(4, 3), "1 has parameters without a shape"),
    ],
)
def test_what_cannot_be_looked_into_is_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3), make()), IMAGE)
