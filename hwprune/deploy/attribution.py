"""Which layer of the network each node of its exported graph, or program, belongs to."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from torch import Tensor, fx
from torch.export import ExportedProgram

from hwprune.latency import Layer

# Where the exporter notes what a node was made from.
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_VIEWS = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "expand", "clone", "dropout"}
)
_WEIGHTS, _MODULE, _PARENT, _OPERATOR, _ALIKE, _SHAPE = 8, 4, 3, 3, 1, 2  # what a piece of evidence is worth


def layers_of_nodes(graph: onnx.GraphProto, layers: Sequence[Layer]) -> list[str]:
    """The layer that every node belongs to.

    Trace and graph are in the same order, but the exporter leaves out what does nothing, folds what it can, names some
    operators differently and takes others apart. So the two are aligned: operators of the graph go to layers in order,
    such that the evidence for it (weights read, module, operator, shape written) is largest in total. Nodes that are
    left, mostly views, go with the node they read from.

    Args:
        graph: exported by ``torch.onnx`` with its notes and inner shapes.
        layers: of the traced network, in execution order.

    Returns:
        a layer's name per node, in the graph's order.
    """
    found = _found(list(_operators(graph)), layers)
    maker: dict[str, str] = {}
    names = []
    for index, node in enumerate(graph.node):
        name = found.get(index) or next((maker[value] for value in node.input if value in maker), layers[0].name)
        maker.update(dict.fromkeys(node.output, name))
        names.append(name)
    return names


def layers_of_program(program: ExportedProgram, layers: Sequence[Layer]) -> dict[str, str]:
    """The layer that every operator of a program belongs to, as :func:`layers_of_nodes` finds it for graphs.

    Args:
        program: of ``torch.export``.
        layers: of the traced network, in execution order.

    Returns:
        a layer's name by the name of the node.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    weights = program.graph_signature.inputs_to_parameters
    found = _found([one for number, node in enumerate(nodes) if (one := _called(number, node, weights))], layers)
    names: dict[str, str] = {}
    for number, node in enumerate(nodes):
        above = (names[one.name] for one in node.all_input_nodes if one.name in names)
        names[node.name] = found.get(number) or next(above, layers[0].name)
    return names


def _found(operators: Sequence[_Operator], layers: Sequence[Layer]) -> dict[int, str]:
    """The layer of every node of the operators that have one, by number."""
    return {
        node: layers[layer].name
        for operator, layer in _aligned(operators, layers)
        for node in operators[operator].nodes
    }


@dataclass(frozen=True)
class _Operator:
    """An operator of the network as the exporter noted it: one or more nodes in a row.

    Attributes:
        nodes: their numbers.
        module: path of the module that called it; None where the exporter noted nothing.
        name: of the operator.
        weights: modules whose ``weight`` is read.
        shapes: written.
    """

    nodes: tuple[int, ...]
    module: str | None
    name: str
    weights: frozenset[str]
    shapes: frozenset[tuple[int, ...]]

    def evidence(self, layer: Layer) -> int:
        """How much speaks for this being the layer; 0 if it cannot be."""
        base = layer.name.partition("#")[0]
        weights = _WEIGHTS if base in self.weights else 0
        place = self._place(base)
        one, other = (name.replace("_", "").lower() for name in (self.name, layer.op))
        alike = _OPERATOR if one == other else _ALIKE if one in other or other in one else 0
        shape = _SHAPE if layer.output.shape in self.shapes else 0
        if not weights and not (place and (alike or shape)) and not (self.module is None and alike and shape):
            return 0
        return weights + place + alike + shape

    def _place(self, base: str) -> int:
        if self.module is None:
            return 0
        return _MODULE if base == self.module else _PARENT if base.rpartition(".")[0] == self.module else 0


def _operators(graph: onnx.GraphProto) -> Iterator[_Operator]:
    """All but views, which are no layers."""
    shapes = {
        port.name: tuple(dim.dim_value for dim in port.type.tensor_type.shape.dim)
        for port in (*graph.value_info, *graph.output)
    }
    start, nodes = 0, list(graph.node)
    while start < len(nodes):
        scopes, classes = _notes(nodes[start])
        end = start + 1
        while scopes and end < len(nodes) and _notes(nodes[end])[0] == scopes:
            end += 1
        same, name = nodes[start:end], nodes[start].op_type
        if classes:
            name = classes[-1].removeprefix("aten.").partition(".")[0]  # "aten.add.Tensor"
        if name not in _VIEWS:
            yield _Operator(
                nodes=tuple(range(start, end)),
                module=scopes[-2] if len(scopes) > 1 else None,
                name=name,
                weights=frozenset(
                    value.removesuffix(".weight") for node in same for value in node.input if value.endswith(".weight")
                ),
                shapes=frozenset(shapes[value] for node in same for value in node.output if value in shapes),
            )
        start = end


def _called(number: int, node: fx.Node, weights: Mapping[str, str]) -> _Operator | None:
    """An operator of a program, unless it is a view."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    value = node.meta.get("val")
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if name in _VIEWS or name == "<built-in function getitem>":
        return None
    return _Operator(
        nodes=(number,),
        module=modules[-1] if modules else None,
        name=name,
        weights=frozenset(
            weights[one.name].removesuffix(".weight")
            for one in node.all_input_nodes
            if weights.get(one.name, "").endswith(".weight")
        ),
        shapes=frozenset({tuple(value.shape)} if isinstance(value, Tensor) else ()),
    )


def _notes(node: onnx.NodeProto) -> tuple[list[str], list[str]]:
    notes = {entry.key: entry.value for entry in node.metadata_props}
    if _SCOPES not in notes or _CLASSES not in notes:
        return [], []
    return ast.literal_eval(notes[_SCOPES]), ast.literal_eval(notes[_CLASSES])


def _aligned(operators: Sequence[_Operator], layers: Sequence[Layer]) -> Iterator[tuple[int, int]]:
    """Pairs of an operator and a layer, each at most once, in order, with the most evidence; the last ones first."""
    best = [np.zeros(len(layers) + 1, dtype=np.int64)]  # by operators seen: evidence by layers seen
    for operator in operators:
        evidence = np.array([operator.evidence(layer) for layer in layers], dtype=np.int64)
        row = best[-1].copy()
        row[1:] = np.maximum(row[1:], np.where(evidence, best[-1][:-1] + evidence, 0))
        best.append(np.maximum.accumulate(row))
    seen = len(layers)
    for index in range(len(operators), 0, -1):
        if best[index][seen] == best[index - 1][seen]:
            continue
        while best[index][seen] == best[index][seen - 1]:
            seen -= 1
        seen -= 1
        yield index - 1, seen
