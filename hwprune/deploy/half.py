"""16-bit models: float16 written into the graph, with explicit casts where nodes stay in float32.

TensorRT from 10.12 on and ONNX Runtime take precision from the model alone, so every value has the type that it is to
be computed in; inputs and outputs of the model stay float32. The converter of ``onnxruntime.transformers`` 1.31, which
is onnxconverter-common's, casts what one float32 node hands to the next through float16, where it overflows again, and
leaves nodes in an order in which they cannot run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from hwprune.errors import ModelError, first_line

LARGEST = float(np.finfo(np.float16).max)
_HALF_TYPE = "tensor(float16)"


def halved(model: onnx.ModelProto, *, kept: Collection[str] = (), alone: str | None = None) -> onnx.ModelProto:
    """A float32 model in float16, but for nodes that must not be, or cannot: those have no float16 form in ONNX.

    Args:
        model: with fixed shapes.
        kept: names of nodes that stay in float32.
        alone: this node and no other becomes float16.

    Raises:
        ModelError: the result is not valid ONNX.
    """
    made = _Halving(model, kept, alone).model
    try:
        onnx.checker.check_model(made)
        return onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the model in float16 is not valid ONNX: {first_line(error)}", hint="use a target of precision fp32"
        ) from error


def halvable(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that can compute in float16, by what ONNX says about their operators."""
    types, opsets = _types(model), _opsets(model)
    return tuple(node.name for node in model.graph.node if any(_changed_inputs(node, types, opsets)))


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """What a model of :func:`halved` computes on hardware that has float16, for hardware that has not.

    Values have the precision and the range of float16, but are held in float32, and sums inside an operator are made in
    float32. ONNX Runtime's CPU provider, given the model itself, would leave out the rounding in between, overflows
    included.
    """
    types, made = _types(model), onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.node[:], graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        node = _copy(node)
        rounded = [value for value in node.output if types.get(value) == TensorProto.FLOAT16]
        _retype(node, TensorProto.FLOAT16, TensorProto.FLOAT)
        for place, value in enumerate(node.output):
            if value in rounded:
                node.output[place] = f"{value}/exact"
        graph.node.append(node)
        for value in rounded:
            there = helper.make_node("Cast", [f"{value}/exact"], [f"{value}/rounded"], to=TensorProto.FLOAT16)
            back = helper.make_node("Cast", [f"{value}/rounded"], [value], to=TensorProto.FLOAT)
            graph.node.extend([there, back])
    return made


class _Halving:
    """A copy of a model under conversion.

    Args:
        model: in float32.
        kept: see :func:`halved`.
        alone: likewise.
    """

    def __init__(self, model: onnx.ModelProto, kept: Collection[str], alone: str | None) -> None:
        self.model, self._kept, self._alone = onnx.ModelProto(), kept, alone
        self.model.CopyFrom(model)
        self._opsets, self._before = _opsets(model), _types(model)
        self._types = dict(self._before)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._other: dict[tuple[str, int], str] = {}  # a value in another type than the one it is made in
        graph = self.model.graph
        del graph.node[:], graph.value_info[:]
        for node in model.graph.node:
            self._convert(_copy(node))
        for port in graph.output:
            self._keep_type(port.name)
        read = {value for node in graph.node for value in _read_by(node)} | {port.name for port in graph.output}
        used = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(used)

    def _convert(self, node: NodeProto) -> None:
        lowered = node.name not in self._kept and self._alone in (None, node.name)
        changed = [lowered and one for one in _changed_inputs(node, self._before, self._opsets)]
        for place, value in enumerate(node.input):
            if self._before.get(value) == TensorProto.FLOAT:
                node.input[place] = self._as(value, TensorProto.FLOAT16 if changed[place] else TensorProto.FLOAT)
        if any(changed):
            for value in _changed_outputs(node, changed, self._before, self._opsets):
                self._types[value] = TensorProto.FLOAT16
            _retype(node, TensorProto.FLOAT, TensorProto.FLOAT16)
        self.model.graph.node.append(node)

    def _as(self, value: str, wanted: int) -> str:
        """The name of a value in a type; it is cast where it is first needed."""
        if self._types[value] == wanted:
            return value
        if (value, wanted) not in self._other:
            name = self._other[value, wanted] = f"{value}/{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
            if value in self._constants:
                with np.errstate(over="ignore"):
                    array = numpy_helper.to_array(self._constants[value]).astype(np.float16)
                self.model.graph.initializer.append(numpy_helper.from_array(array, name))
            else:
                self.model.graph.node.append(_cast(value, name, wanted))
        return self._other[value, wanted]

    def _keep_type(self, output: str) -> None:
        """An output of the model stays what it was, and its readers read what it is made from."""
        if self._types[output] == self._before[output]:
            return
        inner = f"{output}/half"
        for node in self.model.graph.node:
            for values in (node.input, node.output):
                for place, value in enumerate(values):
                    if value == output:
                        values[place] = inner
        self.model.graph.node.append(_cast(inner, output, self._before[output]))


def _changed_inputs(node: NodeProto, types: dict[str, int], opsets: dict[str, int]) -> list[bool]:
    """For every input whether it becomes float16 when the node does; none does where ONNX has no such form of it."""
    domain = _domain(node)
    inner = any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in node.attribute)
    if inner or not onnx.defs.has(node.op_type, opsets.get(domain, 1), domain):
        return [False] * len(node.input)
    schema = onnx.defs.get_schema(node.op_type, opsets[domain], domain)
    allowed = {one.type_param_str for one in schema.type_constraints if _HALF_TYPE in one.allowed_type_strs}
    return [
        types.get(value) == TensorProto.FLOAT and _formal(list(schema.inputs), place) in allowed
        for place, value in enumerate(node.input)
    ]


def _changed_outputs(
    node: NodeProto, changed: list[bool], types: dict[str, int], opsets: dict[str, int]
) -> Iterator[str]:
    """The outputs that are float16 then: of the type of such an input, or of one that the node names."""
    schema = onnx.defs.get_schema(node.op_type, opsets[_domain(node)], _domain(node))
    typed = {_formal(list(schema.inputs), place) for place, one in enumerate(changed) if one}
    named = any(one.name in ("to", "dtype") and one.i == TensorProto.FLOAT for one in node.attribute)
    for place, value in enumerate(node.output):
        if types.get(value) == TensorProto.FLOAT and (named or _formal(list(schema.outputs), place) in typed):
            yield value


def _domain(node: NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def _formal(ports: list[onnx.defs.OpSchema.FormalParameter], place: int) -> str:
    """The type parameter of an argument; the last one may stand for many."""
    return ports[min(place, len(ports) - 1)].type_str


def _retype(node: NodeProto, before: int, after: int) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == before:
            attribute.i = after


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    ports = {one.name: one.type.tensor_type.elem_type for one in (*graph.input, *graph.value_info, *graph.output)}
    return ports | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _read_by(node: NodeProto) -> Iterator[str]:
    """Values that a node reads, those that only its inner graphs read included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from (value for inner in graph.node for value in _read_by(inner))


def _cast(value: str, name: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [value], [name], name=name, to=to)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
