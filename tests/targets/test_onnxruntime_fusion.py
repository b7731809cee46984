"""``fuses`` against what ONNX Runtime does: the graph it would execute is dumped and its kernels are counted."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprune.targets import known_targets, runtime_for

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the fusions were looked at on x86-64 only"
)
CHANNELS = 32
# ATen operator → the ONNX nodes that torch's exporter writes for it: (operator, extra inputs, attributes)
NODES: dict[str, tuple[str, list[float], dict[str, Any]]] = {
    "relu": ("Relu", [], {}),
    "hardtanh": ("Clip", [0.0, 6.0], {}),
    "leaky_relu": ("LeakyRelu", [], {"alpha": 0.1}),
    "sigmoid": ("Sigmoid", [], {}),
    "tanh": ("Tanh", [], {}),
    "hardsigmoid": ("HardSigmoid", [], {"alpha": 1 / 6, "beta": 0.5}),
    "hardswish": ("HardSwish", [], {}),
    "elu": ("Elu", [], {}),
    "gelu": ("Gelu", [], {}),
    "exp": ("Exp", [], {}),
}
LAYOUT = {"ReorderInput", "ReorderOutput", "Reshape", "Transpose"}


@dataclass
class Graph:
    """A chain of operators between layers of one kind, all on 32 channels and small planes."""

    layer: str
    rank: int

    def __post_init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def add_layer(self, x: str) -> str:
        rng = np.random.default_rng(len(self.constants))
        kernel = [1] * max(0, self.rank - 2)
        weight = self.constant(rng.standard_normal([CHANNELS, CHANNELS, *kernel]))
        if self.layer == "linear" and self.rank == 3:
            product = self.node("MatMul", [x, self.constant(rng.standard_normal([CHANNELS, CHANNELS]))])
            return self.node("Add", [product, self.constant(rng.standard_normal([CHANNELS]))])
        bias = self.constant(rng.standard_normal([CHANNELS]))
        op = {"conv": "Conv", "conv_transpose": "ConvTranspose", "linear": "Gemm"}[self.layer]
        return self.node(op, [x, weight, bias], **({"transB": 1} if op == "Gemm" else {"kernel_shape": kernel}))

    def add(self, op: str, x: str, other: str) -> str:
        if op == "add":
            return self.node("Add", [x, other])
        if op == "mul":
            return self.node("Mul", [x, other])
        name, extra, attributes = NODES[op]
        return self.node(name, [x, *(self.constant(value) for value in extra)], **attributes)

    def kernels(self, output: str, folder: Path) -> list[str]:
        """Operators that ONNX Runtime executes, layout changes aside."""
        shape = [1, CHANNELS, 8, 8, 8][: self.rank] if self.layer != "linear" else [4, 5, CHANNELS][3 - self.rank :]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node if node.op_type not in LAYOUT]


def executed(layer: str, rank: int, ops: tuple[str, ...], folder: Path) -> int:
    """Kernels run for: layer (r), layer, ops (with r as the other operand of an add), layer."""
    graph = Graph(layer, rank)
    residual = graph.add_layer("x")
    value = graph.add_layer(residual)
    for op in ops:
        value = graph.add(op, value, residual)
    return len(graph.kernels(graph.add_layer(value), folder))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], int]:
    folder = tmp_path_factory.mktemp("plain")
    return {key: executed(*key, (), folder) for key in LAYERS}


LAYERS = [("conv", 4), ("conv", 3), ("conv", 5), ("conv_transpose", 4), ("linear", 2), ("linear", 3)]
FUSES = runtime_for(known_targets()["local-onnxruntime"]).fuses


@pytest.mark.parametrize(("layer", "rank"), LAYERS)
@pytest.mark.parametrize("op", [*NODES, "add", "mul"])
def test_what_runs_inside_a_kernel(
    plain: dict[tuple[str, int], int], tmp_path: Path, layer: str, rank: int, op: str
) -> None:
    more = executed(layer, rank, (op,), tmp_path) - plain[layer, rank]
    assert FUSES(op, layer, rank=rank) is (more == 0)


@pytest.mark.parametrize("op", NODES)
def test_what_follows_an_addition_inside_a_kernel(plain: dict[tuple[str, int], int], tmp_path: Path, op: str) -> None:
    more = executed("conv", 4, ("add", op), tmp_path) - plain["conv", 4]
    assert FUSES(op, "conv", chain=["add"]) is (more == 0)


@pytest.mark.parametrize("rank", [4, 3])
@pytest.mark.parametrize(
    "ops",
    [
        ("add", "relu"),
        ("add", "hardtanh"),
        ("relu", "add"),
        ("add", "add"),
        ("relu", "sigmoid"),
        ("add", "sigmoid", "relu"),
        ("mul", "relu"),
    ],
)
def test_what_runs_inside_a_kernel_together(
    plain: dict[tuple[str, int], int], tmp_path: Path, ops: tuple[str, ...], rank: int
) -> None:
    chain: list[str] = []
    for op in ops:
        if not FUSES(op, "conv", rank=rank, chain=chain):
            break
        chain.append(op)
    assert len(ops) - len(chain) == executed("conv", rank, ops, tmp_path) - plain["conv", rank]


def test_batch_norm_comes_first() -> None:
    assert FUSES("batch_norm", "conv")
    assert FUSES("batch_norm", "linear", rank=2)
    assert FUSES("batch_norm", "conv_transpose")
    assert FUSES("relu", "conv", chain=["batch_norm", "add"])
    assert not FUSES("batch_norm", "conv", chain=["relu"])
    assert not FUSES("batch_norm", "conv", chain=["add"])
    assert not FUSES("batch_norm", "conv", chain=["batch_norm"])
    assert not FUSES("batch_norm", "cat")
