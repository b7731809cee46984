import onnx
import pytest
import torch
from onnx import numpy_helper

from hwprune.deploy.departure import first_departure
from hwprune.deploy.export import exported_bytes
from hwprune.deploy.half import halved

from .lowered import Loud


def changed(content, weight, factor=1.2):
    model = onnx.load_from_string(content)
    (tensor,) = (one for one in model.graph.initializer if one.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(tensor), weight))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "weight", "layer"),
    [
        ("Residual", "stem.0.weight", "stem.1 (BatchNorm2d)"),  # which is folded into the convolution
        ("Residual", "body.0.weight", "body.1 (BatchNorm2d)"),
        ("Residual", "head.weight", "head (Linear)"),
        ("UNet", "deep.1.weight", "deep.2 (BatchNorm2d)"),
        ("UNet", "leave.weight", "leave (Conv2d)"),
    ],
)
def test_the_layer_whose_weights_are_wrong_is_named(networks, images, name, weight, layer):
    content = exported_bytes(networks[name], images[:2])
    assert first_departure(networks[name], images[:2], content, "fp32") is None
    found = first_departure(networks[name], images[:2], changed(content, weight), "fp32")
    conv = layer.replace("1 (BatchNorm2d)", "0 (Conv2d)").replace("2 (BatchNorm2d)", "1 (Conv2d)")
    assert found in (layer, conv)


def test_what_overflows_in_float16_is_named():
    torch.manual_seed(0)
    model, example = Loud(1e6).eval(), torch.randn(2, 3, 8, 8)
    content = halved(onnx.load_from_string(exported_bytes(model, example))).SerializeToString()
    assert first_departure(model, example, content, "fp16") == "loud (Conv2d)"


def test_a_graph_that_cannot_be_run_names_nothing(networks, images):
    model = onnx.load_from_string(exported_bytes(networks["UNet"], images[:2]))
    model.graph.node[0].op_type = "OfAnotherRuntime"
    assert first_departure(networks["UNet"], images[:2], model.SerializeToString(), "fp32") is None
