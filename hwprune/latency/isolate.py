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

_CACHE_BYTES = 4 * 1024 * 1024  # second-level caches are smaller
_OPSET, _IR = 20, 10  # old enough for every ONNX Runtime that hwprune accepts


Point = tuple[int, ...]


def isolated_models(
    layer: Layer, points: Sequence[Point], *, summed: bool = False
) -> Iterator[tuple[tuple[Point, int], bytes]]:
    """The layer alone, with made-up weights, at several channel counts.

    Args:
        layer: any layer.
        points: channel counts along the axes of its key.
        summed: for a convolution, also give a model in which several (:func:`copies`) read the same input and their
            outputs are summed.

    Yields:
        a point, the number of copies, and the serialised ONNX model.

    Raises:
        MissingLatencyError: the operator cannot be run alone.
    """
    if layer.op not in WEIGHT_OPS:
        from hwprune.latency.operator_export import exported_operators

        models = exported_operators(layer, [point[0] if point else None for point in points])
        yield from (((point, 1), model) for point, model in zip(points, models, strict=True))
        return
    for point in points:
        if layer.op == "linear":
            yield (point, 1), _linear(_input_shape(layer, point[0]), *point)
            continue
        for count in (1, copies(layer, point)) if summed else (1,):
            yield (point, count), _convolution(layer, point, count)


def copies(layer: Layer, point: Point) -> int:
    """How many convolutions make one summed model: 2 to 9, more while their weights fit into a second-level cache.

    In a network, the other layers push a layer's weights out of that cache between two runs.
    """
    incoming, outgoing, groups = _counts(layer, point)
    weight_bytes: int = 4 * math.prod(layer.attributes["kernel"]) * incoming * outgoing // groups
    return 1 + min(8, math.ceil(_CACHE_BYTES / weight_bytes))


def _counts(layer: Layer, point: Point) -> tuple[int, int, int]:
    """Input channels, output channels and groups of a convolution."""
    groups = int(layer.attributes["conv_groups"])
    if not layer.cut_per_group:
        return point[0], point[1], groups
    # Where the count is no whole number of convolution groups, the next whole number stands for it.
    incoming, outgoing = layer.inputs[0].shape[1], layer.output.shape[1]
    kept = math.ceil(point[0] * groups / outgoing)
    return incoming * kept // groups, outgoing * kept // groups, kept


def _input_shape(layer: Layer, channels: int) -> list[int]:
    shape, dim = list(layer.inputs[0].shape), channel_dim(layer, layer.inputs[0])
    assert dim is not None
    shape[dim] = channels
    return shape


def null_model() -> bytes:
    """The cheapest model there is: what remains of a measurement when nothing is computed."""
    node = helper.make_node("Add", ["x", "one"], ["y"])
    return _model([node], [1, 1], [numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")])


def _convolution(layer: Layer, point: Point, count: int) -> bytes:
    given, transposed = layer.attributes, layer.op == "conv_transpose"
    incoming, outgoing, groups = _counts(layer, point)
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
    for i in range(count):
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
