"""Models whose parameters are float16 or bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hwprune import verbs
from hwprune.compression import CompressConfig, Progress
from hwprune.compression.job import prepare
from hwprune.deploy import compare, export_onnx
from hwprune.device_runner import open_engine
from hwprune.errors import ModelError, ParityError, SurgeryError
from hwprune.network import cut, trace, verify_cut
from hwprune.network.inputs import example_for
from hwprune.network.verification import tolerance_for

from . import models

HALVES = [torch.float16, torch.bfloat16]


def resnet(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return models.ResNet().eval().to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_same_channels_can_be_cut_as_in_float32(dtype: torch.dtype) -> None:
    model = resnet(dtype)
    example = example_for(model, (1, 3, 32, 32), batch=1)
    assert example.dtype == dtype
    network, full = trace(model, example), trace(resnet(torch.float32), torch.randn(1, 3, 32, 32))
    assert network.groups[0].name == full.groups[0].name
    assert [(group.name, group.channels, group.frozen) for group in network.groups] == [
        (group.name, group.channels, group.frozen) for group in full.groups
    ]
    kept = {group.name: list(range(1, group.channels, 2)) for group in network.cuttable}
    smaller = cut(model, network.cuts(kept))
    assert {parameter.dtype for parameter in smaller.parameters()} == {dtype}
    verify_cut(model, smaller, network, kept, example)
    other = cut(model, network.cuts({name: [0, *channels[1:]] for name, channels in kept.items()}))
    with pytest.raises(SurgeryError, match=f"allowed {tolerance_for(model):.2g}"):
        verify_cut(model, other, network, kept, example)


def test_each_type_has_its_tolerance() -> None:
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    found = [tolerance_for(model) for model in (nn.Linear(2, 2), nn.Linear(2, 2).half(), nn.Linear(2, 2).bfloat16())]
    assert found == sorted(found)
    assert tolerance_for(mixed) == found[1]
    assert tolerance_for(nn.ReLU()) == found[0]


def test_exported_in_float16_it_computes_the_same(tmp_path: Path) -> None:
    model = resnet(torch.float16)
    example = example_for(model, (2, 3, 32, 32), batch=2)
    engine = open_engine(str(export_onnx(model, example, tmp_path / "m.onnx").path))
    assert engine.inputs[0]["dtype"] == "float16"
    compare(model, engine, [example]).check("fp16")


def test_a_bundle_in_float16_verifies(hwprune: Any, on_made_up_device: None, tmp_path: Path) -> None:
    verbs.export(resnet(torch.float16), input_shape=(1, 3, 32, 32), output=tmp_path / "out")
    assert hwprune(f"verify {tmp_path / 'out'} --no-latency").status == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["golden"]["relative_l2"] == 1e-2


def test_a_wrong_engine_in_float16_is_refused(tmp_path: Path) -> None:
    model, example = resnet(torch.float16), torch.ones(1, 3, 32, 32, dtype=torch.float16)
    engine = open_engine(str(export_onnx(model, example, tmp_path / "m.onnx").path))
    with torch.no_grad():
        model.fc.weight.mul_(1.05)
    with pytest.raises(ParityError, match="fp16 allows"):
        compare(model, engine, [example]).check("fp16")


def test_bfloat16_that_onnx_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bfloat16") as caught:
        export_onnx(resnet(torch.bfloat16), torch.ones(1, 3, 32, 32, dtype=torch.bfloat16), tmp_path / "m.onnx")
    assert "float16 or float32" in caught.value.hint


def test_an_input_of_another_type_is_told() -> None:
    with pytest.raises(ModelError) as caught:
        trace(resnet(torch.float16), torch.ones(1, 3, 32, 32))
    assert "float16" in caught.value.hint


def test_compress_does_not_train_in_half(tmp_path: Path) -> None:
    config = CompressConfig(model="m", data="d", input_shape=(1, 3, 32, 32), output=tmp_path / "run", macs="0.5x")
    with pytest.raises(ModelError, match="is in float16") as caught:
        prepare(config, Progress(quiet=True), model=resnet(torch.float16))
    assert "model.float()" in caught.value.hint
