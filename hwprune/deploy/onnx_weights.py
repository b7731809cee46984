"""Where the weights of an ONNX file are: their bytes in the file, and which dimension of them makes channels.

Their places are read from the file itself, for the ``onnx`` package tells values, not where they were. Numbers of
fields are those of onnx.proto.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from hwprune.engines.onnx_graph import spans

_DTYPES = {TensorProto.FLOAT: "<f4", TensorProto.FLOAT16: "<f2", TensorProto.DOUBLE: "<f8", TensorProto.BFLOAT16: "<u2"}
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5  # of ModelProto and GraphProto
_ATTRIBUTE, _TENSOR, _FLOATS, _RAW = 5, 5, 4, 9  # of NodeProto, AttributeProto and TensorProto
_CHANNELS = {  # (operator, input): the dimension of output channels; of Gemm's it depends
    ("Conv", 1): 0,
    ("ConvTranspose", 1): 1,
    ("Gather", 0): 0,
    ("MatMul", 0): -2,
    ("MatMul", 1): -1,
    **{(op, number): 1 for op in ("GRU", "LSTM", "RNN") for number in (1, 2)},
}
_SAME, _MOVED = ("Identity", "Cast"), ("Reshape", "Squeeze", "Unsqueeze", "Slice", "Split")


@dataclass(frozen=True)
class WrittenTensor:
    """A floating-point tensor of two or more dimensions whose bytes lie in the file as they are in memory.

    Attributes:
        name: the value's.
        shape: of at least one element.
        dtype: numpy's name; bfloat16 is read as ``<u2``.
        start: place of the first byte in the file.
        end: place after the last.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int


def written_tensors(content: bytes) -> list[WrittenTensor]:
    """The initializers and constants of a model's main graph, in the order of the file.

    Args:
        content: a serialised ONNX model that the ``onnx`` package can read.
    """
    found = []
    for graph in _spans(content, _GRAPH, 0, len(content)):
        for field, start, end in spans(content, *graph):
            if field == _INITIALIZER:
                found.append(_tensor(content, start, end, None))
            elif field == _NODE:
                node = onnx.NodeProto.FromString(content[start:end])
                for attribute in _spans(content, _ATTRIBUTE, start, end) if node.op_type == "Constant" else ():
                    places = _spans(content, _TENSOR, *attribute)
                    found += [_tensor(content, *place, node.output[0]) for place in places]
    return [tensor for tensor in found if tensor is not None]


def _tensor(content: bytes, start: int, end: int, name: str | None) -> WrittenTensor | None:
    tensor = TensorProto.FromString(content[start:end])
    shape, dtype = tuple(tensor.dims), _DTYPES.get(tensor.data_type)
    field = _FLOATS if tensor.float_data and dtype == "<f4" else _RAW
    places = _spans(content, field, start, end)
    if dtype is None or len(shape) < 2 or len(places) != 1 or min(shape) < 1:
        return None
    (first, last), size = places[0], math.prod(shape) * int(dtype[2:])
    return (
        WrittenTensor(tensor.name if name is None else name, shape, dtype, first, last)
        if last - first == size
        else None
    )


def _spans(content: bytes, number: int, start: int, end: int) -> list[tuple[int, int]]:
    return [(first, last) for field, first, last in spans(content, start, end) if field == number]


class Roles:
    """What the tensors of a graph are for.

    Args:
        graph: the main graph of a model; what only its inner graphs read has no role, nor what callers may replace.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._replaceable = {port.name for port in graph.input}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in graph.node:
            for number, value in enumerate(node.input):
                self._readers[value].append((node, number))

    def channel_dim(self, name: str, rank: int) -> int | None:
        """The dimension of a tensor that makes output channels of what first reads it; None if it is no weight.

        Weights are what convolutions, matrix products, recurrent layers and look-ups multiply with or look up,
        transposed or in another shape; of the latter, channels are along the first dimension.
        """
        for node, number in self._readers[name] if name not in self._replaceable else ():
            dim = self._dim(node, number, rank)
            if dim is not None:
                return dim % rank
        return None

    def _dim(self, node: onnx.NodeProto, number: int, rank: int) -> int | None:
        settings = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Gemm" and number < 2:
            return (0 if settings.get("transB") else 1) if number else (1 if settings.get("transA") else 0)
        if node.op_type == "Transpose":
            order = settings.get("perm") or list(reversed(range(rank)))
            dim = self.channel_dim(node.output[0], len(order))
            return None if dim is None else int(order[dim])
        if node.op_type in _SAME:
            return self.channel_dim(node.output[0], rank)
        if node.op_type in _MOVED and number == 0:
            return 0 if any(self.channel_dim(output, rank) is not None for output in node.output) else None
        return _CHANNELS.get((node.op_type, number))
