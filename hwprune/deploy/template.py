"""An exported network at any widths, without exporting it again.

Exporting takes seconds, and profiling wants dozens of prunings of one network. What differs between their graphs are
numbers: sizes of weights, and the few constants that count channels. Three exports, of the dense network and of two
cuts whose widths are all distinct, show which numbers differ; each must be the size of some dimension of the traced
network in all three, and that dimension's axis then gives it at any widths. Where a number has no such explanation, or
more than one, or the graphs differ in more than numbers, every network is cut and exported on its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from hwprune.budget import Axis
from hwprune.deploy.attribution import layers_of_nodes
from hwprune.deploy.export import exported_proto
from hwprune.deploy.lowering import timed_form
from hwprune.network import Network, cut
from hwprune.network.attention import make_resizable
from hwprune.network.forward import Example
from hwprune.network.surgery import copied

PERIOD = 1021  # made-up weights repeat after so many values, and compress well for it; a prime, so that rows differ
ATTEMPTS = 100
Widths = Mapping[str, int]
Number = tuple[str, int, int]  # kind of place, its index, position inside
Triple = tuple[int, ...]


class _Unexplained(Exception):
    """The exports differ in something that is not a dimension of the traced network."""


@dataclass(frozen=True)
class Template:
    """A network's exported graph as a function of its widths.

    Attributes:
        covers: name of every node → the layer it belongs to. A node is named like its first output, unless
            a lower precision added it.
        explained: whether networks are made by filling in numbers; otherwise each is exported on its own.
    """

    covers: dict[str, str]
    explained: bool
    _build: Callable[[Widths], onnx.ModelProto]

    def at(self, widths: Widths) -> bytes:
        """The serialised network with these widths, and made-up weights.

        Args:
            widths: group name → channels kept, for every cuttable group.

        Raises:
            ModelError: it has no ONNX form.
        """
        return bytes(self._build(widths).SerializeToString())


def template(
    model: nn.Module,
    example: Example,
    network: Network,
    *,
    precision: str = "fp32",
    seed: int = 0,
) -> Template:
    """Prepare exporting a model at any widths.

    Args:
        model: the dense model.
        example: the arguments of ``forward``, batch first.
        network: its trace.
        precision: of the graphs; ``int8`` and ``fp16`` as :func:`hwprune.deploy.lowering.timed_form` makes them.
        seed: of the widths of the two cuts that are compared.

    Raises:
        ModelError: the model has no ONNX form.
    """
    stirred = _stirred(model, seed)

    def prepared(exported: onnx.ModelProto) -> onnx.ModelProto:
        return _ordered(timed_form(_bare(exported), precision, seed=seed))

    def cut_and_exported(widths: Widths) -> onnx.ModelProto:
        kept = {group.name: list(range(widths[group.name])) for group in network.cuttable}
        return prepared(exported_proto(cut(stirred, network.cuts(kept)), example))

    exported = exported_proto(stirred, example)
    layers = layers_of_nodes(exported.graph, network.layers)
    dense = prepared(exported)
    covers = _with_neighbours(
        dict(zip((node.output[0] for node in exported.graph.node), layers, strict=True)), dense.graph
    )
    if not network.cuttable:
        return Template(covers, True, lambda widths: dense)
    samples = _telling_widths(network, seed)
    try:
        numbers = _explained(network, dense, samples, [cut_and_exported(widths) for widths in samples])
    except _Unexplained:
        return Template(covers, False, cut_and_exported)
    return Template(covers, True, _Filler(dense, numbers))


def _with_neighbours(covers: Mapping[str, str], graph: onnx.GraphProto) -> dict[str, str]:
    """Layers of all nodes, where some were added since: they go with what they read from, else with their reader."""
    found = dict(covers)
    maker = {value: node.name for node in graph.node for value in node.output}
    for node in graph.node:
        above = [found[maker[value]] for value in node.input if maker.get(value) in found]
        if node.name not in found and above:
            found[node.name] = above[0]
    for node in reversed(graph.node):
        for value in node.input if node.name in found else ():
            if value in maker:
                found.setdefault(maker[value], found[node.name])
    return found


def _stirred(model: nn.Module, seed: int) -> nn.Module:
    """A copy in which no two tensors hold the same values: the exporter would make one of them.

    Its attention computes as it was traced, and as it does once cut.
    """
    stirred, generator = copied(model), torch.Generator().manual_seed(seed)
    make_resizable(stirred)
    with torch.no_grad():
        for tensor in (*stirred.parameters(), *stirred.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator).to(tensor))
    return stirred


def _telling_widths(network: Network, seed: int) -> list[dict[str, int]]:
    """Widths of two cuts, at which no two dimensions look the same that are not; if that can be."""
    samples: list[dict[str, int]] = []
    for attempt in range(ATTEMPTS):
        samples = _distinct_widths(network, random.Random(f"{seed} {attempt}"))
        if all(len(found) == 1 for found in _axes(network, samples).values()):
            break
    return samples


def _distinct_widths(network: Network, rng: random.Random) -> list[dict[str, int]]:
    """Widths of two cuts, such that no two groups of one size have the same in both, if there are enough widths."""
    taken = set()
    pairs: dict[str, tuple[int, int]] = {}
    for group in network.cuttable:
        # A width of 1 looks like a broadcast, and the dense width like no cut at all.
        choices = range(min(2, group.channels - 1) or 1, group.channels) or range(1, 2)
        for _ in range(ATTEMPTS):
            pair = (rng.choice(choices), rng.choice(choices))
            if (group.channels, *pair) not in taken:
                break
        taken.add((group.channels, *pair))
        pairs[group.name] = pair
    frozen = {group.name: group.channels for group in network.frozen}
    return [{**frozen, **{name: pair[index] for name, pair in pairs.items()}} for index in range(2)]


def _axes(network: Network, samples: Sequence[Widths]) -> dict[Triple, set[Axis]]:
    """Every dimension of the network that changes, by its sizes in the dense network and the samples."""
    everywhere = [network.dense_widths, *samples]
    frozen = {group.name: group.channels for group in network.frozen}
    operands = [operand for layer in network.layers for operand in (*layer.inputs, layer.output)]
    axes = [operand.axis for operand in operands if operand.channel_dim is not None]
    found: dict[Triple, set[Axis]] = {}
    for axis in {*(Axis(terms=((group.name, 1),)) for group in network.cuttable), *axes}:
        settled = axis.settled(frozen)
        ordered = replace(settled, terms=tuple(sorted(settled.terms)), products=tuple(sorted(settled.products)))
        triple = tuple(axis.size(widths) for widths in everywhere)
        if len(set(triple)) > 1:
            found.setdefault(triple, set()).add(ordered)
    return found


def _explained(
    network: Network, dense: onnx.ModelProto, samples: Sequence[Widths], others: Sequence[onnx.ModelProto]
) -> dict[Number, Axis]:
    axes, numbers = _axes(network, samples), {}
    seen = [_numbers(model.graph) for model in (dense, *others)]
    if any(other.keys() != seen[0].keys() for other in seen[1:]):
        raise _Unexplained
    for place, value in seen[0].items():
        triple = (value, *(other[place] for other in seen[1:]))
        if len(set(triple)) > 1:
            if len(axes.get(triple, ())) != 1:
                raise _Unexplained
            (numbers[place],) = axes[triple]
    return numbers


def _numbers(graph: onnx.GraphProto) -> dict[Number, int]:
    """All whole numbers of a graph that may count channels, by their place; operators and edges are in the places.

    Values go by the order in which nodes mention them: the exporter numbers them as it likes.
    """
    found: dict[Number, int] = {}
    order: dict[str, int] = {}
    for value in (value for node in graph.node for value in (*node.input, *node.output)):
        order.setdefault(value, len(order))
    for index, tensor in enumerate(graph.initializer):
        first = order.setdefault(tensor.name, len(order))
        found.update({(f"dims {first}", index, i): size for i, size in enumerate(tensor.dims)})
        found.update({("value", index, i): number for i, number in enumerate(_whole(tensor))})
    for index, node in enumerate(graph.node):
        edges = " ".join(str(order[value]) for value in (*node.input, *node.output))
        found[f"node {node.op_type} {edges}", index, 0] = 0
        for attribute in node.attribute:
            numbers = [attribute.i] if attribute.type == onnx.AttributeProto.INT else list(attribute.ints)
            if attribute.type == onnx.AttributeProto.TENSOR:
                numbers = _whole(attribute.t)
            found.update({(f"attribute {attribute.name}", index, i): number for i, number in enumerate(numbers)})
    return found


def _whole(tensor: onnx.TensorProto) -> list[int]:
    return numpy_helper.to_array(tensor).ravel().tolist() if _is_shape(tensor) else []


def _is_shape(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.INT64 and int(np.prod(tensor.dims)) <= 64


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without notes and inner shapes; nodes are named like what they write."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    del bare.metadata_props[:]
    for node in bare.graph.node:
        node.name = node.output[0]
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for tensor in bare.graph.initializer:
        if not _is_shape(tensor):
            tensor.CopyFrom(_refilled(tensor.name, numpy_helper.to_array(tensor), list(tensor.dims)))
    return bare


def _ordered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without inner shapes, its constants in the order in which nodes mention them."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    mentioned = dict.fromkeys(value for node in model.graph.node for value in node.input if value in constants)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.initializer[:], made.graph.value_info[:]
    made.graph.initializer.extend(constants[name] for name in {**mentioned, **dict.fromkeys(sorted(constants))})
    return made


class _Filler:
    """Fills numbers into a copy of the dense graph."""

    def __init__(self, dense: onnx.ModelProto, numbers: Mapping[Number, Axis]) -> None:
        self._dense, self._numbers = dense, numbers
        self._patterns: dict[int, NDArray[np.generic]] = {}
        for index in {place[1] for place in numbers if place[0].startswith("dims")}:
            tensor = dense.graph.initializer[index]
            self._patterns[index] = numpy_helper.to_array(tensor).ravel()[:PERIOD].copy()
            tensor.ClearField("raw_data")  # it is filled anyway: a copy of the graph is small without

    def __call__(self, widths: Widths) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(self._dense)
        graph = made.graph
        for (kind, index, position), axis in self._numbers.items():
            size = axis.size(widths)
            if kind.startswith("dims"):
                graph.initializer[index].dims[position] = size
            elif kind == "value":
                _replace(graph.initializer[index], position, size)
            else:
                self._set_attribute(graph.node[index], kind.removeprefix("attribute "), position, size)
        for index, pattern in self._patterns.items():
            tensor = graph.initializer[index]
            tensor.CopyFrom(_refilled(tensor.name, pattern, list(tensor.dims)))
        return made

    @staticmethod
    def _set_attribute(node: onnx.NodeProto, name: str, position: int, size: int) -> None:
        attribute = next(one for one in node.attribute if one.name == name)
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = size
        elif attribute.type == onnx.AttributeProto.INTS:
            attribute.ints[position] = size
        else:
            _replace(attribute.t, position, size)


def _replace(tensor: onnx.TensorProto, position: int, number: int) -> None:
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[position] = number
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _refilled(name: str, values: NDArray[np.generic], shape: list[int]) -> onnx.TensorProto:
    """A tensor of another shape with values of the same kind: variances stay positive, weights of their scale."""
    return numpy_helper.from_array(np.resize(values.ravel()[:PERIOD], shape), name)
