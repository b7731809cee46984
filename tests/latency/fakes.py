"""Layers made by hand, and a device whose latencies are made up: a staircase in the channel counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx

from hwprune.budget.axis import Axis
from hwprune.latency import Bench, Layer, Operand, null_model, probe_model
from hwprune.targets import Target
from hwprune.targets.connection import ANCHOR, NULL, Connection, Visit

TARGET = Target(name="fake")
NULL_MS = 0.01
DEVICE = {
    "cpu": "made up",
    "isa": ["none"],
    "machine": "fake",
    "logical_cpus": 2,
    "runtime": "onnxruntime",
    "runtime_version": "1.2.3",
}


def operand(*shape: int, group: str | None = None, fixed: int = 0, multiplier: int = 1, dim: int = 1) -> Operand:
    """An activation whose channels belong to ``group`` (none: they are fixed)."""
    axis = Axis(fixed, ((group, multiplier),)) if group else Axis(shape[dim])
    return Operand(shape, dim, axis)


def conv(name: str, source: Operand, output: Operand, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> Layer:
    ones = [1] * (len(source.shape) - 2)
    return Layer(
        name=name,
        op="conv",
        inputs=(source,),
        output=output,
        attributes={
            "kernel": [kernel * one for one in ones],
            "stride": [stride * one for one in ones],
            "padding": [kernel // 2 * one for one in ones],
            "dilation": ones,
            "output_padding": [0 * one for one in ones],
            "bias": True,
            "conv_groups": groups,
        },
        cut_per_group=groups > 1,
    )


def linear(name: str, source: Operand, output: Operand) -> Layer:
    return Layer(name=name, op="linear", inputs=(source,), output=output, attributes={"bias": True})


def call(name: str, op: str, target: str, inputs: tuple[Operand, ...], output: Operand, *args: Any) -> Layer:
    """An operator; without ``args`` it is called with its inputs."""
    given = list(args) or [{"input": index} for index in range(len(inputs))]
    return Layer(
        name=name,
        op=op,
        inputs=inputs,
        output=output,
        call={"target": target, "args": given, "kwargs": {}},
    )


def staircase_ms(model: onnx.ModelProto, block: int) -> float:
    """Made-up time: the parameters of every convolution and linear layer, its channels rounded up to the block."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    total = NULL_MS
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            ends, kernel = weights[node.input[1]][:2], weights[node.input[1]][2:]
            total += 1e-4 * math.prod(kernel) * math.prod(math.ceil(end / block) * block for end in ends)
        elif node.op_type not in ("Add", "Identity", "Constant"):
            total += 0.5
    return total


def relus(count: int) -> bytes:
    """A model that takes half a made-up millisecond per operator."""
    nodes = [onnx.helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x0", f"x{count}")]
    model: bytes = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "relus", [ends[0]], [ends[1]])
    ).SerializeToString()
    return model


def statistics(rounds_ms: list[float], iqr_ms: float = 0.001) -> dict[str, Any]:
    """Of one candidate, as a device tells them; every round had two samples."""
    return {
        **dict.fromkeys(("p50_ms", "cpu_p50_ms"), float(np.median(rounds_ms))),
        **dict.fromkeys(("min_ms", "low_ms"), min(rounds_ms)),
        **dict.fromkeys(("p90_ms", "high_ms"), max(rounds_ms)),
        "iqr_ms": iqr_ms,
        "repeats": 2 * len(rounds_ms),
        "clean": 2 * len(rounds_ms),
        "calls_per_sample": 1,
        "rounds_ms": rounds_ms,
    }


class FakeConnection(Connection):
    """Every model takes its made-up time, which depends on a channel block; the device may get slower by the visit."""

    def __init__(self, block: int = 16, slowdown: float = 1.0) -> None:
        self.block, self.slowdown = block, slowdown
        self.visits: list[Visit] = []
        self._fixed = {NULL: null_model(), ANCHOR: probe_model(TARGET)}

    def fingerprint(self) -> dict[str, Any]:
        return DEVICE

    def run(self, visits: Iterable[Visit]) -> Iterator[dict[str, Any]]:
        for visit in visits:
            factor = self.slowdown ** len(self.visits)
            self.visits.append(visit)
            models = {**visit.models, **self._fixed}
            taken = {name: factor * self.milliseconds(model) for name, model in models.items()}
            yield {
                "id": visit.id,
                "candidates": {name: statistics([ms] * visit.rounds) for name, ms in taken.items()},
                "kernels": {},
                "clock": "perf_counter_ns",
                "contention": {"clean_fraction": 1.0},
            }

    def milliseconds(self, model: bytes) -> float:
        return staircase_ms(onnx.load_from_string(model), self.block)


def fake_bench(block: int = 16, slowdown: float = 1.0, *, seed: int = 0) -> Bench:
    return Bench(TARGET, FakeConnection(block, slowdown), seed=seed)


def residual_network(width: int = 64) -> tuple[Layer, ...]:
    """conv, norm, relu, conv, norm, add, relu, pool, linear; both convolutions share a key."""
    image = operand(1, 3, 32, 32)
    a, b = operand(1, width, 32, 32, group="a"), operand(1, width, 32, 32, group="b")
    pooled, logits = operand(1, width, group="a"), operand(1, 10)
    follow = {"n1": "c1", "r1": "n1", "n2": "c2", "sum": "n2", "r2": "sum"}
    layers = (
        conv("stem", image, a, kernel=5),
        conv("c1", a, b),
        call("n1", "batch_norm", "aten.native_batch_norm.default", (b,), b),
        call("r1", "relu", "aten.relu_.default", (b,), b),
        conv("c2", b, a),
        call("n2", "batch_norm", "aten.native_batch_norm.default", (a,), a),
        call("sum", "add", "aten.add.Tensor", (a, a), a),
        call("r2", "relu", "aten.relu.default", (a,), a),
        call("pool", "mean", "aten.mean.dim", (a,), pooled, {"input": 0}, [2, 3]),
        linear("fc", pooled, logits),
    )
    return tuple(
        Layer(**{**vars(layer), "follows": (follow[layer.name],)}) if layer.name in follow else layer
        for layer in layers
    )
