"""A single layer as an ONNX model, to be measured alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwprune.latency.key import WEIGHT_OPS, channel_dim
from hwprune.latency.layer import Layer

_OPSET, _IR = 20, 10  # old enough for every ONNX Runtime that hwprune accepts


Point = tuple[int, ...]


def isolated_models(
    layer: Layer, points: Sequence[Point], *, copies: Sequence[int] = (1,)
) -> Iterator[tuple[tuple[Point, int], bytes]]:
    """The layer alone, with made-up weights, at several channel counts.

    Args:
        layer: any layer.
        points: channel counts along the axes of its key.
        copies: how many convolutions, all reading the same input, are summed; one model for each. Other layers: 1.

    Yields:
        a point, a number of copies, and the serialised ONNX model.

    Raises:
        MissingLatencyError: the operator cannot be run alone.
    """
    if layer.op not in WEIGHT_OPS:
        from hwprune.latency.operator_export import exported_operators

        models = exported_operators(layer, [point[0] if point else None for point in points])
        yield from (((point, 1), model) for point, model in zip(points, models, strict=True))
    elif layer.op == "linear":
        yield from (((point, 1), _linear(_input_shape(layer, point[0]), *point)) for point in points)
    else:
        yield from (((point, count), _convolution(layer, point, count)) for point in points for count in copies)


def _input_shape(layer: Layer, channels: int) -> list[int]:
    shape, dim = list(layer.inputs[0].shape), channel_dim(layer, layer.inputs[0])
    assert dim is not None
    shape[dim] = channels
    return shape


def null_model() -> bytes:
    """The cheapest model there is: what remains of a measurement when nothing is computed."""
    node = helper.make_node("Add", ["x", "one"], ["y"])
    return _model([node], [1], [numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")])


def _convolution(layer: Layer, point: Point, copies: int) -> bytes:
    given, transposed = layer.attributes, layer.op == "conv_transpose"
    groups = int(given["conv_groups"])
    if layer.cut_per_group:
        # Where the count is no whole number of convolution groups, the next whole number stands for it.
        dense = layer.inputs[0].shape[1], layer.output.shape[1]
        kept = math.ceil(point[0] * groups / dense[1])
        (incoming, outgoing), groups = (size * kept // groups for size in dense), kept
    else:
        incoming, outgoing = point
    ends = (incoming, outgoing // groups) if transposed else (outgoing, incoming // groups)
    settings: dict[str, Any] = {
        "kernel_shape": given["kernel"],
        "strides": given["stride"],
        "pads": [*given["padding"], *given["padding"]],
        "dilations": given["dilation"],
        "group": groups,
    }
    if transposed:
        settings["output_padding"] = given.get("output_padding") or [0] * len(given["kernel"])
    kind, total = "ConvTranspose" if transposed else "Conv", "y0"
    nodes, weights = [], []
    for i in range(copies):
        nodes.append(helper.make_node(kind, ["x", f"weight{i}", f"bias{i}"], [f"y{i}"], **settings))
        weights += [_weights(f"weight{i}", (*ends, *given["kernel"])), _weights(f"bias{i}", (outgoing,))]
        if i:
            nodes.append(helper.make_node("Add", [total, f"y{i}"], [f"sum{i}"]))
            total = f"sum{i}"
    nodes.append(helper.make_node("Identity", [total], ["y"]))
    return _model(nodes, _input_shape(layer, incoming), weights)


def _linear(shape: list[int], incoming: int, outgoing: int) -> bytes:
    # As the exporter writes them: Gemm for one row per sample, MatMul and Add for tokens.
    if len(shape) == 2:
        nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)]
        weight = _weights("weight", (outgoing, incoming))
    else:
        nodes = [helper.make_node("MatMul", ["x", "weight"], ["xw"]), helper.make_node("Add", ["xw", "bias"], ["y"])]
        weight = _weights("weight", (incoming, outgoing))
    return _model(nodes, shape, [weight, _weights("bias", (outgoing,))])


def _weights(name: str, shape: tuple[int, ...]) -> TensorProto:
    """Small normal numbers: values do not matter, as long as nothing becomes denormal or infinite."""
    values = np.random.default_rng(list(name.encode())).standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    return numpy_helper.from_array(values, name)


def _model(nodes: list[onnx.NodeProto], shape: list[int], initializers: list[TensorProto]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString())
