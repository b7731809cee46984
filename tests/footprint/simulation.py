"""Executing an exported graph on paper, node by node, with explicit frees; knows nothing of hwprune."""

from __future__ import annotations

import math
from collections import Counter

import onnx
from onnx import helper

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
OVERWRITES = {"Relu", "Clip", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "Softmax"}


class Heap:
    """Blocks of memory in which values lie; a block goes when nothing lies in it any more."""

    def __init__(self) -> None:
        self.block_of: dict[str, int] = {}
        self.sizes: dict[int, int] = {}
        self.blocks = 0

    def allocate(self, value: str, size: int) -> None:
        self.blocks += 1
        self.block_of[value], self.sizes[self.blocks] = self.blocks, size

    def share(self, value: str, other: str) -> None:
        self.block_of[value] = self.block_of[other]

    def free(self, value: str) -> None:
        block = self.block_of.pop(value)
        if block not in self.block_of.values():
            del self.sizes[block]

    def lies_alone(self, value: str) -> bool:
        return list(self.block_of.values()).count(self.block_of[value]) == 1

    @property
    def held(self) -> int:
        return sum(self.sizes.values())


def peak_bytes(model: onnx.ModelProto) -> int:
    """The most bytes of inputs and results held at once."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    sizes = {port.name: _bytes(port) for port in (*graph.input, *graph.value_info, *graph.output)}
    for_good = {port.name for port in (*graph.input, *graph.output)}
    waiting = Counter(name for node in graph.node for name in set(node.input))  # nodes that still are to read it
    heap, peak = Heap(), 0
    for port in graph.input:
        heap.allocate(port.name, sizes[port.name])
    for node in graph.node:
        reads = [name for name in dict.fromkeys(node.input) if name in heap.block_of]
        last = [name for name in reads if waiting[name] == 1 and name not in for_good]
        for name in node.output:
            over = node.op_type in OVERWRITES and reads[0] in last and heap.lies_alone(reads[0])
            if over or node.op_type in VIEWS:
                heap.share(name, reads[0])
            elif name in waiting or name in for_good:
                heap.allocate(name, sizes[name])
        peak = max(peak, heap.held)
        waiting.subtract(reads)
        for name in last:
            heap.free(name)
    return peak


def _bytes(port: onnx.ValueInfoProto) -> int:
    tensor = port.type.tensor_type
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return math.prod(dim.dim_value for dim in tensor.shape.dim) * int(itemsize)
