"""Single layers as ONNX models, held against PyTorch's own idea of their shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from hwprune import device_runner
from hwprune.latency import Layer
from hwprune.latency.isolate import copies, isolated_models, null_model

from .fakes import conv, linear, operand


def isolated_model(layer: Layer, point: tuple[int, ...]) -> bytes:
    ((name, content),) = isolated_models(layer, [point])
    assert name == (point, 1)
    return content


def ran(content: bytes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    engine = device_runner.open_engine(content)
    feeds = device_runner.example_feeds(engine)
    return feeds, engine.run(feeds)[0]


@pytest.mark.parametrize("pixels", [(9,), (9, 7), (5, 6, 7)])
@pytest.mark.parametrize(("sizes", "groups"), [((8, 12), 1), ((5, 3), 1), ((6,), 12), ((9,), 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(pixels: tuple[int, ...], sizes: tuple[int, ...], groups: int, transposed: bool) -> None:
    dense = operand(2, 12, *pixels, group="a")
    layer = conv("c", dense, dense, stride=2, groups=groups)
    incoming, outgoing = sizes * 2 if len(sizes) == 1 else sizes
    kept = sizes[0] * groups // 12 if groups > 1 else 1
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    extra = {"output_padding": 1} if transposed else {}
    module = kinds[len(pixels) - 1](incoming, outgoing, 3, stride=2, padding=1, groups=kept, **extra)
    if transposed:
        layer = dataclasses.replace(layer, op="conv_transpose")
        layer.attributes["output_padding"] = [1] * len(pixels)
    content = isolated_model(layer, sizes)
    weights = {item.name: numpy_helper.to_array(item) for item in onnx.load_from_string(content).graph.initializer}
    feeds, output = ran(content)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weights["weight0"]))
        module.bias.copy_(torch.tensor(weights["bias0"]))
        expected = module(torch.tensor(feeds["x"]))
    np.testing.assert_allclose(output, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_a_part_of_a_convolution_group_counts_as_a_whole_one() -> None:
    x = operand(1, 12, 9, 9, group="a")
    _, output = ran(isolated_model(conv("c", x, x, groups=4), (7,)))
    assert output.shape == (1, 9, 9, 9)


def test_copies_are_summed_and_differ() -> None:
    layer = conv("c", operand(1, 4, 6, 6), operand(1, 5, 6, 6))
    (one, _), (several, content) = isolated_models(layer, [(4, 5)], summed=True)
    assert (one, several) == (((4, 5), 1), ((4, 5), 9))
    model = onnx.load_from_string(content)
    kinds = [node.op_type for node in model.graph.node]
    assert [kinds.count(kind) for kind in ("Conv", "Add", "Identity")] == [9, 8, 1]
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert not np.array_equal(weights["weight0"], weights["weight1"])  # equal ones would be merged into one
    feeds, output = ran(content)
    parts = [
        nn.functional.conv2d(
            torch.tensor(feeds["x"]), torch.tensor(weights[f"weight{i}"]), torch.tensor(weights[f"bias{i}"]), padding=1
        )
        for i in range(9)
    ]
    np.testing.assert_allclose(output, sum(parts).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((16, 16), 9),  # 9 KiB of weights
        ((256, 256), 3),  # 2.25 MiB: two of them outgrow 4 MiB
        ((512, 512), 2),
    ],
)
def test_weights_of_all_copies_outgrow_the_cache(point: tuple[int, int], expected: int) -> None:
    x = operand(1, 512, 4, 4)
    assert copies(conv("c", x, x), point) == expected


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_linear_layers(shape: tuple[int, ...]) -> None:
    dense = operand(*shape, dim=len(shape) - 1)
    content = isolated_model(linear("fc", dense, dense), (6, 7))
    weights = {item.name: numpy_helper.to_array(item) for item in onnx.load_from_string(content).graph.initializer}
    feeds, output = ran(content)
    matrix = weights["weight"].T if len(shape) == 2 else weights["weight"]
    np.testing.assert_allclose(output, feeds["x"] @ matrix + weights["bias"], rtol=1e-3, atol=1e-5)
    assert output.shape == (*shape[:-1], 7)


def test_the_null_model_computes_next_to_nothing() -> None:
    feeds, output = ran(null_model())
    assert output == feeds["x"] + 1
    assert output.size == 1
