from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from hwprune import device_runner
from hwprune.deploy.calibration import from_example, from_training
from hwprune.deploy.export import exported_bytes
from hwprune.deploy.half import emulated, halvable, halved
from hwprune.deploy.lowering import lower
from hwprune.deploy.quantization import Quantizer
from hwprune.deploy.values import outputs_on, relative_l2, values_on
from hwprune.targets import Target, load_target

from .lowered import Loud, Outlier, labelled
from .whole_networks import Transformer

INT8, FP16 = (load_target("local-onnxruntime", precision=one) for one in ("int8", "fp16"))


@pytest.fixture(scope="module")
def outlier():
    torch.manual_seed(3)
    model = Outlier().eval()
    content = exported_bytes(model, torch.zeros(2, 16))
    return content, from_training(content, labelled(model, 16), batch=2)


def error_of(content, lowered, feeds):
    whole, made = onnx.load_from_string(content), onnx.load_from_string(lowered)
    return relative_l2(outputs_on(whole, feeds), outputs_on(made, feeds))


def test_what_quantises_badly_is_found_and_stays_in_float(outlier):
    content, calibration = outlier
    everything = lower(content, INT8, calibration)
    assert everything.error > 0.2
    assert not everything.kept
    limit = 0.05
    found = lower(content, INT8, calibration, met=lambda made: error_of(content, made, calibration.feeds) <= limit)
    assert found.met
    assert found.error <= limit
    assert {one.layer for one in found.kept} <= {"wide", "narrow"}  # either side of the loud channel
    assert found.kept[0].error > 0.1
    still = {node.op_type for node in onnx.load_from_string(found.content).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= still


def test_a_gate_that_cannot_be_met_ends_with_the_fewest_that_help(outlier):
    content, calibration = outlier
    found = lower(content, INT8, calibration, met=lambda made: False)
    assert not found.met
    assert found.error < 0.1
    assert len(found.kept) <= 4


def test_activations_are_signed_around_zero_where_the_runtime_wants_them(outlier):
    content, calibration = outlier
    for target, symmetric in ((INT8, False), (Target(name="gpu", runtime="tensorrt", precision="int8"), True)):
        graph = onnx.load_from_string(lower(content, target, calibration).content).graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
        kinds = {tensor.data_type for tensor in zeros}
        assert kinds == ({TensorProto.INT8} if symmetric else {TensorProto.UINT8})
        assert (not any(numpy_helper.to_array(tensor).any() for tensor in zeros)) == symmetric
        assert any(tensor.data_type == TensorProto.INT32 for tensor in constants.values()) != symmetric  # biases
        scales = [constants[node.input[1]] for node in graph.node if node.input[0].endswith(".weight_quantized")]
        assert scales
        assert all(len(tensor.dims) == 1 for tensor in scales)  # one per channel


def test_quantised_alone_leaves_the_rest_as_it_was(outlier):
    content, calibration = outlier
    model = onnx.load_from_string(content)
    quantizer = Quantizer(model, calibration.feeds)
    for name in quantizer.nodes:
        weights = {one.name for one in quantizer.quantised(alone=name).graph.initializer}
        reads = next(node for node in model.graph.node if node.name == name).input
        assert {one.name for one in model.graph.initializer} - weights <= set(reads)


def test_what_overflows_stays_in_float32():
    torch.manual_seed(0)
    model = Loud(1e6).eval()
    example = torch.randn(2, 3, 8, 8)
    content = exported_bytes(model, example)
    calibration = from_example(content, example)
    whole = onnx.load_from_string(content)
    blind = outputs_on(emulated(halved(whole)), calibration.feeds)
    assert not np.isfinite(blind[0][0]).all()
    found = lower(content, FP16, calibration)
    assert found.met
    assert found.error < 5e-3
    assert {one.layer for one in found.kept} == {"loud", "soft"}
    assert all(one.largest > 65504 / 2 and one.to_dict()["error"] is None for one in found.kept)
    made = onnx.load_from_string(found.content)
    kept = [node for node in made.graph.node if node.name in {one.node for one in found.kept}]
    assert kept[1].input[0] == kept[0].output[0]  # what the one hands to the other is cast to nothing in between
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types["loud.weight"] == types["soft.weight"] == TensorProto.FLOAT
    assert types["plain.weight/half"] == TensorProto.FLOAT16
    assert {port.type.tensor_type.elem_type for port in (*made.graph.input, *made.graph.output)} == {TensorProto.FLOAT}


def test_a_layer_that_loses_too_much_in_float16_is_found_by_its_error():
    """Differences of large numbers: all in range, nothing left of them in 11 bits."""

    class Cancelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.leave((self.enter(x) + 3000.0) - 3000.0)

    torch.manual_seed(1)
    example = torch.randn(4, 8)
    content = exported_bytes(Cancelling().eval(), example)
    found = lower(content, FP16, from_example(content, example))
    assert found.met
    assert {one.op for one in found.kept} <= {"Add", "Sub"}
    assert found.kept
    assert all(0.05 < one.error < np.inf and one.largest is None for one in found.kept)


@pytest.mark.parametrize("name", ["Residual", "UNet", "Mobile", "Transformer"])
def test_float16_is_as_close_as_torchs(networks, name):
    torch.manual_seed(2)
    model, example = networks.get(name), torch.randn(2, 3, 16, 16)
    if name == "Transformer":
        model = Transformer().eval()
    content = exported_bytes(model, example)
    whole, feeds = onnx.load_from_string(content), from_example(content, example).feeds
    made = halved(whole)
    assert len(halvable(whole)) == len(whole.graph.node)
    with torch.no_grad():
        wanted = model(example)
        torchs = float((copy_of(model).half()(example.half()).float() - wanted).norm() / wanted.norm())
    for one in (made, emulated(made)):
        error = relative_l2([[wanted.numpy()]], outputs_on(one, feeds))
        assert error < 3 * torchs
    assert relative_l2([[wanted.numpy()]], outputs_on(emulated(made), feeds)) > 1e-5  # it is rounded indeed


def copy_of(model):
    copied = type(model)()
    copied.load_state_dict(model.state_dict())
    return copied.eval()


def test_parts_in_float16_are_typed_and_run(networks):
    """Any choice of nodes makes a model that is valid, and closer to the whole than all in float16."""
    content = exported_bytes(networks["UNet"], torch.zeros(2, 3, 16, 16))
    whole, rng = onnx.load_from_string(content), np.random.default_rng(0)
    feeds = from_example(content, torch.randn(2, 3, 16, 16)).feeds
    wanted, names = outputs_on(whole, feeds), [node.name for node in whole.graph.node]
    for _ in range(6):
        kept = set(rng.permutation(names)[: rng.integers(1, len(names))].tolist())
        made = halved(whole, kept=kept)
        onnx.checker.check_model(made, full_check=True)
        values = next(values_on(made, feeds))
        for node in made.graph.node:
            if node.name in names:
                assert values[node.output[0]].dtype == ("float32" if node.name in kept else "float16")
        assert relative_l2(wanted, outputs_on(emulated(made), feeds)) < 5e-3
    assert relative_l2(wanted, outputs_on(halved(whole, kept=names), feeds)) == 0


def test_constants_of_both_kinds_are_kept_twice_and_unused_ones_not_at_all():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            return (x @ self.weight).relu() @ self.weight

    content = exported_bytes(Shared().eval(), torch.zeros(2, 6))
    whole = onnx.load_from_string(content)
    first = next(node.name for node in whole.graph.node if node.op_type == "MatMul")
    assert {one.name for one in halved(whole, kept=[first]).graph.initializer} == {"weight", "weight/half"}
    assert {one.name for one in halved(whole).graph.initializer} == {"weight/half"}


def test_the_target_decides_what_runs(outlier):
    content, calibration = outlier
    made = lower(content, replace(FP16, batch=2), calibration).content
    engine = device_runner.open_engine(made)
    assert [port["dtype"] for port in (*engine.inputs, *engine.outputs)] == ["float32", "float32"]
