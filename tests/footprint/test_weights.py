"""Bytes of weights against what real exports of random cuts hold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.footprint import footprint, weight_bytes
from hwprune.network import trace
from hwprune.targets import Target, runtime_for

from ..network import models
from .networks import MODELS, Traced, stored

ANY = runtime_for(Target(name="any"))


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest) -> Traced:
    torch.manual_seed(0)
    return Traced(MODELS[request.param](), side=16 if request.param == "flattened" else 32)


def total(subject: Traced, widths: dict[str, int], precision: str = "fp32") -> float:
    return sum(term.at(widths) for terms in weight_bytes(subject.network, precision).values() for term in terms)


def test_the_initializers_of_random_cuts_are_predicted_to_the_byte(subject: Traced, tmp_path: Path) -> None:
    graphs = []
    for seed in (0, 1):
        widths, path = subject.widths(seed), tmp_path / "model.onnx"
        held = stored(subject.exported(widths, path))
        assert total(subject, widths) == sum(held.values()), held
        graphs.append(path.stat().st_size - sum(held.values()))
    # What else is in the file is the graph; only the spelling of a few sizes depends on the widths.
    assert max(graphs) - min(graphs) <= 0.01 * graphs[0] + 40


def test_parameters_are_those_of_the_network_really_cut(subject: Traced) -> None:
    for seed in range(6):
        widths = subject.widths(seed)
        smaller = subject.cut(widths)
        found = footprint(subject.network, ANY, widths=widths)
        assert found.parameters == sum(parameter.numel() for parameter in smaller.parameters())
        assert sum(layer.parameters for layer in found.layers) == found.parameters
        assert sum(layer.weight_bytes for layer in found.layers) == found.weight_bytes == total(subject, widths)


class Calibration:
    def __init__(self, name: str, shape: list[int]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([{name: np.random.default_rng(0).normal(size=shape)}])

    def get_next(self) -> dict[str, Any] | None:
        feed = next(self._feeds, None)
        return feed and {name: array.astype(np.float32) for name, array in feed.items()}


def quantized(path: Path, shape: list[int]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            path,
            path.with_suffix(".int8.onnx"),
            Calibration("input", shape),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
        )
    return onnx.load(path.with_suffix(".int8.onnx"))


@pytest.mark.parametrize("name", ["residual", "mobilenet", "unet", "inception"])
def test_int8_stores_what_a_quantizer_writes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    subject = Traced(MODELS[name]())
    widths, path = subject.widths(3, step=4), tmp_path / "model.onnx"
    subject.exported(widths, path)
    held = stored(quantized(path, [1, 3, 32, 32]))
    assert total(subject, widths, "int8") == sum(held.values()), held


def test_fp16_is_half_of_fp32(subject: Traced) -> None:
    assert total(subject, subject.widths(1), "fp16") == total(subject, subject.widths(1)) / 2


def test_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    model.register_parameter("unread", nn.Parameter(torch.zeros(5)))
    found = footprint(trace(model, torch.zeros(1, 3, 8, 8)), ANY, widths={"0": 5})
    assert [(layer.name, layer.parameters, layer.weight_bytes) for layer in found.layers] == [
        ("0", 5 * 27, 4 * (5 * 27 + 5)),
        ("1", 10, 0),
        ("2", 4 * 5 + 4, 4 * (4 * 5 + 4)),
    ]
    assert (found.parameters, found.weight_bytes) == (5 * 27 + 10 + 24 + 5, 4 * (140 + 24))  # nobody reads the five
    assert footprint(trace(model, torch.zeros(1, 3, 8, 8)), ANY, "int8", {"0": 5}).weight_bytes == (
        (5 * 27 + 5 * 5 + 5 * 12) + (4 * 5 + 4 * 5 + 4 * 12)
    )


def test_an_attention_network_misses_its_scale_alone(tmp_path: Path) -> None:
    """Attention multiplies by a constant, which is the graph's own."""
    torch.manual_seed(0)
    subject = Traced(models.ViT())
    held = stored(subject.exported(subject.widths(2), tmp_path / "model.onnx"))
    assert sum(held.values()) - total(subject, subject.widths(2)) == 4


def test_group_norm_has_two_numbers_per_group(tmp_path: Path) -> None:
    torch.manual_seed(0)
    subject = Traced(nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 4, 1)))
    held = stored(subject.exported({"0": 2}, tmp_path / "model.onnx"))  # each of these channels is four
    assert total(subject, {"0": 2}) == sum(held.values())


@pytest.mark.parametrize("precision", ["fp17", "", "INT8"])
def test_an_unknown_precision_is_refused(precision: str) -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="precision"):
        weight_bytes(network, precision)


def test_a_missing_width_is_refused() -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="no width is given for 0"):
        footprint(network, ANY, widths={})
