"""A graph filled with other widths must be, number by number, the graph of the network that was really cut."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hwprune import device_runner
from hwprune.deploy.half import halved
from hwprune.deploy.quantization import made_up_feeds, quantised
from hwprune.deploy.template import Template, template
from hwprune.latency import Layer
from hwprune.network import trace

from . import whole_networks
from .whole_networks import IMAGE, KINDS, Prepared, lived_in, prepared

EXPLAINED = [kind.__name__ for kind in KINDS if kind is not whole_networks.Little]
NAMES = [*EXPLAINED, "Little"]


def subject(name: str) -> Prepared:
    return prepared(getattr(whole_networks, name))


@functools.cache
def dense_graph(name: str) -> onnx.GraphProto:
    """With the shapes of everything in between."""
    dense = subject(name).channels
    model = onnx.load_from_string(subject(name).made.at(dense))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph


def integers(tensor: onnx.TensorProto) -> list[int] | None:
    values = numpy_helper.to_array(tensor)
    return values.ravel().tolist() if values.dtype.kind == "i" else None


def plain(graph: onnx.GraphProto) -> dict[str, Any]:
    """All of a graph but the values of its weights; edges by number."""
    order: dict[str, int] = {}
    for value in (value for node in graph.node for value in (*node.input, *node.output)):
        order.setdefault(value, len(order))

    def attributes(node: onnx.NodeProto) -> dict[str, Any]:
        found = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        return {key: integers(value) if isinstance(value, onnx.TensorProto) else value for key, value in found.items()}

    return {
        "initializers": {order[t.name]: (t.data_type, list(t.dims), integers(t)) for t in graph.initializer},
        "nodes": [
            (node.op_type, [order[v] for v in node.input], [order[v] for v in node.output], attributes(node))
            for node in graph.node
        ],
        "ends": [(port.name, str(port.type)) for port in (*graph.input, *graph.output)],
    }


@pytest.mark.parametrize("name", NAMES)
def test_filled_in_is_really_exported(name: str) -> None:
    made, widths = subject(name).made, subject(name).widths(7)
    assert made.explained == (name in EXPLAINED)
    filled = onnx.load_from_string(made.at(widths))
    onnx.checker.check_model(filled)
    real = subject(name).really(widths)
    assert plain(filled.graph) == plain(real.graph)
    assert [node.name for node in filled.graph.node] == [node.output[0] for node in filled.graph.node]
    assert all(not node.metadata_props and not node.doc_string for node in filled.graph.node)


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize("seed", range(3))
def test_it_runs_at_any_widths_and_gives_numbers(name: str, seed: int) -> None:
    widths = subject(name).widths(seed)
    engine = device_runner.open_engine(subject(name).made.at(widths))
    outputs = engine.run(device_runner.example_feeds(engine))
    expected = subject(name).model(IMAGE)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert [output.shape for output in outputs] == [tuple(one.shape) for one in expected]
    assert all(np.isfinite(output).all() and output.std() > 0 for output in outputs)


@pytest.mark.parametrize("name", EXPLAINED)
def test_at_the_dense_widths_it_is_the_dense_network(name: str) -> None:
    filled = {tensor.name: tuple(tensor.dims) for tensor in dense_graph(name).initializer}
    original = {parameter: tuple(tensor.shape) for parameter, tensor in subject(name).model.named_parameters()}
    both = filled.keys() & original.keys()
    assert len(both) >= 6
    assert {key: filled[key] for key in both} == {key: original[key] for key in both}


def test_one_network_does_not_change_the_next() -> None:
    made, wide, narrow = subject("Mixed").made, subject("Mixed").widths(1), subject("Mixed").widths(2)
    first = made.at(wide)
    made.at(narrow)
    assert made.at(wide) == first
    assert made.at(narrow) != first


def test_weights_are_as_wide_as_they_were_and_no_two_rows_are_equal() -> None:
    made = onnx.load_from_string(subject("Mixed").made.at(subject("Mixed").widths(3)))
    original = subject("Mixed").model.state_dict()
    for tensor in made.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name in original and values.ndim == 4 and values.shape[1] > 1:
            assert values.std() == pytest.approx(original[tensor.name].std().item(), rel=0.2)
            assert len(np.unique(values.reshape(len(values), -1), axis=0)) == len(values)


def test_the_model_stays_as_it_was() -> None:
    """Its weights are stirred in a copy only."""
    torch.manual_seed(0)
    again = lived_in(whole_networks.Mixed()).state_dict()
    for name, tensor in subject("Mixed").model.state_dict().items():
        assert torch.equal(tensor, again[name])


def test_nothing_to_cut() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU()).eval()  # the only group is the output
    network = trace(model, IMAGE)
    assert not network.cuttable
    made = template(model, IMAGE, network)
    assert made.explained
    assert device_runner.open_engine(made.at({})).outputs[0]["shape"] == [1, 4, 16, 16]


# Which layer a node belongs to ----------------------------------------------------------------------------------------

KERNELS = {  # how ONNX spells layers with weights; a linear layer over tokens is a product and a sum
    "conv": {"Conv"},
    "conv_transpose": {"ConvTranspose"},
    "linear": {"Gemm", "MatMul", "Add"},
}


def nodes_by_layer(name: str) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in dense_graph(name).node:
        found.setdefault(subject(name).made.covers[node.name], []).append(node)
    return found


def layers(name: str) -> dict[str, Layer]:
    return {layer.name: layer for layer in subject(name).network.layers}


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_with_weights_has_exactly_its_own_nodes(name: str) -> None:
    found = nodes_by_layer(name)
    weighty = [layer for layer in layers(name).values() if layer.op in KERNELS]
    for layer in weighty:
        kinds = [
            node.op_type for node in found[layer.name] if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        ]
        assert len(kinds) == 1, layer.name
        assert kinds[0] in KERNELS[layer.op]
    assert len(weighty) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_shapes_of_layers_and_of_their_nodes_agree(name: str) -> None:
    """With every layer at its own place, what its nodes write has the shape that the trace saw it write."""
    graph = dense_graph(name)
    shapes = {
        port.name: tuple(dim.dim_value for dim in port.type.tensor_type.shape.dim)
        for port in (*graph.value_info, *graph.output)
    }
    for layer_name, nodes in nodes_by_layer(name).items():
        written = {shapes[value] for node in nodes for value in node.output if value in shapes}
        assert layers(name)[layer_name].output.shape in written, layer_name


@pytest.mark.parametrize("name", NAMES)
def test_only_batch_norm_behind_weights_and_what_does_nothing_have_no_node(name: str) -> None:
    left = {layer_name for layer_name in layers(name) if layer_name not in nodes_by_layer(name)}
    folded = {layer.name for layer in layers(name).values() if layer.op == "batch_norm" and layer.follows}
    assert left - folded == ({"cat"} if name == "Dense" else set())  # of one tensor


EXPECTED = {
    "Mixed": {
        "constant_pad_nd": ["Pad"],
        "slice": ["Slice"],
        "slice#2": ["Slice"],
        "mean": ["ReduceMean"],
        "sigmoid": ["Sigmoid"],
        "mul": ["Mul"],
        "add": ["Add"],
        "relu#2": ["Relu"],
        "cat": ["Concat"],
        "mean#2": ["ReduceMean"],
    },
    "Shuffled": {"split": ["Split"], "cat": ["Concat", "Reshape"], "transpose": ["Transpose", "Reshape"]},
    "Upsampled": {
        "max_pool2d_with_indices": ["MaxPool"],
        "max_pool2d_with_indices#2": ["MaxPool"],
        "cat": ["Concat"],
        "cat#2": ["Concat"],
    },
    "Dense": {
        "norms.0": ["BatchNormalization"],
        "norms.2": ["BatchNormalization"],
        "cat#2": ["Concat"],
        "cat#4": ["Concat"],
        "relu#4": ["Relu"],
        "hidden": ["Gemm"],
    },
    "Transformer": {"gelu": ["Gelu"], "norm2": ["LayerNormalization"], "fc2": ["MatMul", "Add"]},
    "Shared": {
        "conv": ["Conv"],
        "conv#2": ["Conv"],
        "left": ["Conv"],
        "right": ["Conv"],
        "neg": ["Neg"],
        "convolution": ["Conv"],
        "mm": ["MatMul"],
    },
    "Little": {"relu": ["Relu"]},
}


@pytest.mark.parametrize("name", NAMES)
def test_functional_operators_and_shared_modules_go_to_their_own_layers(name: str) -> None:
    found = {layer: [node.op_type for node in nodes] for layer, nodes in nodes_by_layer(name).items()}
    assert {layer: found.get(layer) for layer in EXPECTED[name]} == EXPECTED[name]


def test_attention_that_the_exporter_takes_apart_is_one_layer() -> None:
    found = nodes_by_layer("Transformer")
    (attention,) = (layer for layer in found if "attention" in layer.rpartition(".")[2])
    kinds = [node.op_type for node in found[attention]]
    assert kinds.count("MatMul") == 2
    assert kinds.count("Softmax") == 1


# In eight bits --------------------------------------------------------------------------------------------------------


@functools.cache
def in_eight_bits(name: str) -> Template:
    return template(subject(name).model, IMAGE, subject(name).network, precision="int8")


@pytest.mark.parametrize("name", EXPLAINED)
def test_in_eight_bits_filled_in_is_really_quantised(name: str) -> None:
    made = in_eight_bits(name)
    widths = {group: max(2, width) for group, width in subject(name).widths(7).items()}  # one scale would be a scalar
    assert made.explained
    filled = onnx.load_from_string(made.at(widths))
    onnx.checker.check_model(filled)
    real = subject(name).really(widths)
    for node in real.graph.node:
        node.name = node.output[0]
    real = quantised(real, made_up_feeds(real))
    kinds = [Counter(node.op_type for node in graph.node) for graph in (filled.graph, real.graph)]
    assert kinds[0] == kinds[1]
    assert kinds[0]["DequantizeLinear"] > kinds[0]["QuantizeLinear"] > 3
    constants = [
        Counter((one.data_type, tuple(one.dims)) for one in graph.initializer) for graph in (filled.graph, real.graph)
    ]
    assert constants[0] == constants[1]
    engine = device_runner.open_engine(filled.SerializeToString())
    outputs = engine.run(device_runner.example_feeds(engine))
    assert all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("name", EXPLAINED)
def test_in_eight_bits_every_node_belongs_where_it_did(name: str) -> None:
    made, before = in_eight_bits(name), subject(name).made.covers
    nodes = onnx.load_from_string(made.at(subject(name).channels)).graph.node
    assert {node.name for node in nodes} <= made.covers.keys()
    assert before.items() <= made.covers.items()
    maker = {value: node for node in nodes for value in node.output}
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in maker:
            assert made.covers[node.name] == made.covers[maker[node.input[0]].name]


@pytest.mark.parametrize("name", EXPLAINED)
def test_in_float16_filled_in_is_what_it_would_be_made_anew(name: str) -> None:
    made = template(subject(name).model, IMAGE, subject(name).network, precision="fp16")
    widths = subject(name).widths(7)
    assert made.explained
    filled = onnx.load_from_string(made.at(widths))
    onnx.checker.check_model(filled, full_check=True)
    real = halved(subject(name).really(widths))
    assert Counter(node.op_type for node in filled.graph.node) == Counter(node.op_type for node in real.graph.node)
    constants = [
        Counter((one.data_type, tuple(one.dims)) for one in graph.initializer) for graph in (filled.graph, real.graph)
    ]
    assert constants[0] == constants[1]
    assert {node.name for node in filled.graph.node} <= made.covers.keys()
