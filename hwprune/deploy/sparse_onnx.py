"""A plain ONNX file of fewer bytes: ``sparse_initializer``, and weights in 16 or 8 bits that the graph widens.

ONNX Runtime folds the nodes that widen them when it opens the file, so that what runs is the same as before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwprune.deploy.onnx_weights import Roles
from hwprune.deploy.rounding import Rounded, rounded
from hwprune.footprint.encoding import Precision, sparse_tensor

_SINCE = 6  # version of ONNX's format that has sparse initializers
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_NODES = 400  # bytes that three nodes take, about


def sparse_onnx(model: ModelProto, precision: Precision) -> bytes:
    """The file of a model in which weights are rounded, and sparse where that takes fewer bytes.

    These are initializers and constants of the main graph, but for those that callers may replace (that are inputs).

    Args:
        model: with its weights inside; it is changed.
        precision: that weights are rounded to.
    """
    model.ir_version = max(model.ir_version, _SINCE)
    roles, tensors = Roles(model.graph), _taken_out(model.graph)
    writer = _Writer(model.graph)
    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        dim = roles.channel_dim(tensor.name, values.ndim)
        writer.add(tensor.name, values, rounded(values, dim, precision), dim or 0)
    writer.finish()
    return bytes(model.SerializeToString(deterministic=True))


def _taken_out(graph: GraphProto) -> list[TensorProto]:
    """Floating-point initializers and constants of two or more dimensions, which the graph lacks afterwards."""
    inputs = {port.name for port in graph.input}
    found: list[TensorProto] = []
    initializers: list[TensorProto] = []
    nodes: list[NodeProto] = []
    for tensor in graph.initializer:
        (found if _is_taken(tensor) and tensor.name not in inputs else initializers).append(tensor)
    for node in graph.node:
        value = next((one.t for one in node.attribute if one.name == "value"), TensorProto())
        if node.op_type == "Constant" and not node.domain and _is_taken(value):
            found.append(value)
            value.name = node.output[0]
        else:
            nodes.append(node)
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in found]
    _replace(graph.initializer, initializers)
    _replace(graph.node, nodes)
    return copies


def _is_taken(tensor: TensorProto) -> bool:
    return tensor.data_type in _FLOATS and len(tensor.dims) >= 2 and min(tensor.dims) > 0


def _replace(repeated: Any, kept: list[Any]) -> None:
    copies = [type(one).FromString(one.SerializeToString()) for one in kept]
    del repeated[:]
    repeated.extend(copies)


class _Writer:
    """Brings tensors back into a graph in another form."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph, self._nodes = graph, list[NodeProto]()
        values = (*graph.initializer, *graph.input)
        self._names = {one.name for one in values}.union(*((*node.input, *node.output) for node in graph.node))

    def add(self, name: str, values: NDArray[Any], weight: Rounded, dim: int) -> None:
        """A tensor as rounded; in fewer bits where that saves more than the nodes cost that widen it."""
        stored, scales = weight.stored.reshape(values.shape), weight.scales
        if values.nbytes - stored.nbytes - scales.nbytes <= _NODES:
            self._put(name, weight.values.reshape(values.shape))
            return
        narrow, dtype = self._new(name), helper.np_dtype_to_tensor_dtype(values.dtype)
        self._put(narrow, stored)
        if not len(scales):
            self._nodes.append(helper.make_node("Cast", [narrow], [name], to=dtype))
            return
        wide, scale, product = self._new(name), self._new(name), self._new(name)
        shape = [-1 if number == dim else 1 for number in range(values.ndim)]
        self._graph.initializer.append(numpy_helper.from_array(scales.reshape(shape), scale))
        self._nodes += [
            helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT),
            helper.make_node("Mul", [wide, scale], [product]),
            helper.make_node("Cast", [product], [name], to=dtype),
        ]

    def finish(self) -> None:
        """Put the nodes that widen before all that read them."""
        _replace(self._graph.node, [*self._nodes, *self._graph.node])

    def _put(self, name: str, values: NDArray[Any]) -> None:
        sparse = sparse_tensor(values, name)
        if sparse is None:
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        else:
            self._graph.sparse_initializer.append(sparse)

    def _new(self, name: str) -> str:
        number = 0
        while f"{name}.{number}" in self._names:
            number += 1
        self._names.add(f"{name}.{number}")
        return f"{name}.{number}"
