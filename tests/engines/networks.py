"""Small networks as ONNX, built node by node, of the kinds that runtimes fuse in different ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 32


class Network:
    """Nodes in the order in which they are added; ``x`` goes in, the last value comes out.

    Nodes are called n0, n1, …; values v0, v1, …
    """

    def __init__(self, *shape: int) -> None:
        self.shape, self.nodes, self.constants = shape, list[Any](), list[Any]()
        self.rng = np.random.default_rng(0)

    def constant(self, *shape: int, value: Any = None) -> str:
        array = self.rng.standard_normal(shape).astype(np.float32) / 8 if value is None else np.asarray(value)
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return f"c{len(self.constants) - 1}"

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        number = len(self.nodes)
        values = [f"v{number}"] if outputs == 1 else [f"v{number}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), values, name=f"n{number}", **attributes))
        return values[0] if outputs == 1 else values

    def conv(self, x: str, channels: int = CHANNELS, kernel: int = 3, groups: int = 1, into: int = CHANNELS) -> str:
        weight, bias = self.constant(into, channels // groups, kernel, kernel), self.constant(into)
        return self.add("Conv", x, weight, bias, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2, group=groups)

    def batch_norm(self, x: str, channels: int = CHANNELS) -> str:
        scale = [self.constant(value=np.ones(channels, np.float32) + i) for i in range(4)]
        return self.add("BatchNormalization", x, *scale)

    def model(self) -> Any:
        last = self.nodes[-1].output[0]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def serialised(self) -> bytes:
        return bytes(self.model().SerializeToString())


def residual() -> Network:
    """Two blocks; the second one changes the number of channels, so that its shortcut is a convolution."""
    net = Network(1, 3, 16, 16)
    x = net.add("MaxPool", net.add("Relu", net.conv("x", 3)), kernel_shape=[2, 2], strides=[2, 2])
    y = net.conv(net.add("Relu", net.conv(x)))
    x = net.add("Relu", net.add("Add", y, x))
    shortcut = net.conv(x, kernel=1, into=64)
    y = net.conv(net.add("Relu", net.conv(x, into=64)), 64, into=64)
    x = net.add("Relu", net.add("Add", y, shortcut))
    pooled = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.add("Gemm", pooled, net.constant(10, 64), net.constant(10), transB=1)
    return net


def squeezing() -> Network:
    """MobileNetV3's block: depthwise, hard swish, squeeze and excitation, and a sum with the input."""
    net = Network(1, 3, 16, 16)
    x = net.add("HardSwish", net.conv("x", 3))
    y = net.add("HardSwish", net.conv(x, kernel=1, into=64))
    y = net.add("HardSwish", net.conv(y, 64, kernel=5, groups=64, into=64))
    s = net.add("ReduceMean", y, net.constant(value=np.int64([2, 3])), keepdims=1)
    s = net.add("Relu", net.conv(s, 64, kernel=1, into=16))
    s = net.add("HardSigmoid", net.conv(s, 16, kernel=1, into=64), alpha=1 / 6, beta=0.5)
    y = net.conv(net.add("Mul", s, y), 64, kernel=1)
    net.conv(net.add("Add", y, x), kernel=1)
    return net


def dense() -> Network:
    """DenseNet's: every layer reads the concatenation of all before it, normalised."""
    net = Network(1, 3, 16, 16)
    parts = [net.conv("x", 3)]
    for count in (1, 2):
        x = net.add("Concat", *parts, axis=1) if count > 1 else parts[0]
        y = net.add("Relu", net.batch_norm(x, CHANNELS * count))
        parts.append(net.conv(y, CHANNELS * count))
    net.add("Relu", net.batch_norm(net.conv(net.add("Concat", *parts, axis=1), CHANNELS * 3)))
    return net


def padded() -> Network:
    """A convolution behind a layer that pads, as exporters write asymmetric padding; and one behind a pool."""
    net = Network(1, 3, 15, 15)
    pads = net.constant(value=np.int64([0, 0, 0, 0, 0, 0, 1, 1]))
    x = net.add("Relu", net.conv(net.add("Pad", "x", pads), 3))
    x = net.add("Pad", x, pads)
    x = net.add("Relu", net.conv(x))
    net.add("Sigmoid", net.conv(net.add("AveragePool", x, kernel_shape=[2, 2]), kernel=1))
    return net


def tokens() -> Network:
    """A transformer's block: attention and perceptron behind layer norms, with the bias apart as exporters write it."""
    width, heads, length = 64, 2, 64
    net = Network(1, length, width)

    def norm(x: str) -> str:
        return net.add("LayerNormalization", x, net.constant(width), net.constant(width), axis=-1)

    def linear(x: str, into: int, of: int = width) -> str:
        return net.add("Add", net.add("MatMul", x, net.constant(of, into)), net.constant(into))

    x = net.add("Add", "x", net.constant(1, length, width))
    split = net.constant(value=np.int64([1, length, heads, width // heads]))
    y = norm(x)
    queries, keys, values = (
        net.add("Transpose", net.add("Reshape", linear(y, width), split), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = net.add("Mul", net.add("MatMul", queries, keys), net.constant(value=np.float32(0.25)))
    y = net.add("MatMul", net.add("Softmax", scores, axis=-1), values)
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.constant(value=np.int64([1, length, width])))
    x = net.add("Add", x, linear(y, width))
    y = linear(net.add("Gelu", linear(norm(x), 128)), width, 128)
    norm(net.add("Add", x, y))
    return net


ALL = {build.__name__: build for build in (residual, squeezing, dense, padded, tokens)}
PRODUCTS = ("Conv", "Gemm", "MatMul")
