"""Layers: names, costs worked out by hand, who runs inside whose kernel."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.network import trace

from . import models


def layers(model, example):
    return {layer.name: layer for layer in trace(model, example).layers}


def test_a_residual_network_in_execution_order():
    found = layers(models.ResNet(), torch.randn(2, 3, 32, 32))
    assert [(name, layer.op) for name, layer in found.items()][:9] == [
        ("stem.0.0", "conv"),
        ("stem.0.1", "batch_norm"),
        ("stem.1", "relu"),
        ("layer1.conv1", "conv"),
        ("layer1.bn1", "batch_norm"),
        ("layer1.relu", "relu"),
        ("layer1.conv2", "conv"),
        ("layer1.bn2", "batch_norm"),
        ("layer1.add", "add"),
    ]
    assert list(found)[-2:] == ["mean", "fc"]
    conv = found["layer2.conv1"]
    assert conv.macs == 2 * 32 * 16 * 16 * 16 * 9
    assert conv.parameters == 32 * 16 * 9
    assert conv.attributes == {
        "kernel": [3, 3],
        "stride": [2, 2],
        "padding": [1, 1],
        "dilation": [1, 1],
        "output_padding": [0, 0],
        "bias": False,
        "conv_groups": 1,
    }
    widths = {"stem.0.0": 3, "layer2.conv1": 5}
    assert conv.macs_at(widths) == 2 * 5 * 16 * 16 * 3 * 9
    assert found["fc"].parameters_at({"layer2.conv2": 7}) == 10 * 7 + 10
    assert found["stem.0.1"].parameters_at({"stem.0.0": 3}) == 6
    assert sum(layer.parameters for layer in found.values()) == sum(p.numel() for p in models.ResNet().parameters())


def test_who_follows_whom():
    found = layers(models.ResNet(), torch.randn(2, 3, 32, 32))
    assert found["stem.0.1"].follows == ("stem.0.0",)
    assert found["layer1.conv1"].follows == ()  # the stem's result is read by the shortcut as well
    assert found["layer1.add"].follows == ("layer1.bn2",)
    assert found["layer2.add"].follows == ("layer2.bn2", "layer2.down.1")
    assert found["fc"].follows == ("mean",)  # through a flatten
    assert found["layer1.relu#2"].follows == ("layer1.add",)


class Tokens(nn.Module):
    """A linear layer on (batch, tokens, features), its result also returned."""

    def __init__(self, bias):
        super().__init__()
        self.first = nn.Linear(6, 10, bias=bias)
        self.second = nn.Linear(10, 4)

    def forward(self, x):
        y = self.first(x)
        return self.second(F.relu(y)), y.sum(2)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_on_tokens_counts_every_token(bias):
    found = layers(Tokens(bias), torch.randn(2, 5, 6))
    first = found["first"]
    assert (first.op, first.attributes["bias"]) == ("linear", bias)
    assert (first.inputs[0].shape, first.output.shape, first.output.channel_dim) == ((2, 5, 6), (2, 5, 10), 2)
    assert first.macs == 2 * 5 * 6 * 10
    assert first.parameters == 60 + 10 * bias
    assert found["relu"].follows == ()  # the sum reads it too


def test_grouped_and_transposed_convolutions():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.ConvTranspose2d(16, 6, 3, 2, 1, 1), nn.Conv2d(6, 2, 1)
    )
    found = layers(model, torch.randn(1, 3, 10, 10))
    assert found["1"].cut_per_group
    assert found["1"].macs == 16 * 8 * 8 * 9
    assert found["1"].macs_at({"0": 3}) == 6 * 8 * 8 * 9
    assert found["1"].parameters_at({"0": 3}) == 6 * 9 + 6
    assert found["2"].op == "conv_transpose"
    assert found["2"].attributes["output_padding"] == [1, 1]
    assert found["2"].macs == 16 * 8 * 8 * 6 * 9
    assert found["2"].output.shape == (1, 6, 16, 16)


def test_other_operators_say_how_to_run_them_alone():
    found = layers(models.UNet(), torch.randn(1, 3, 16, 16))
    pool, joined, norm = found["max_pool2d_with_indices"], found["cat"], found["down1.0.1"]
    assert pool.call == {
        "target": "aten.max_pool2d_with_indices.default",
        "args": [{"input": 0}, [2, 2]],
        "kwargs": {},
    }
    assert joined.call["args"] == [[{"input": 0}, {"input": 1}], 1]
    assert [operand.axis.terms for operand in joined.inputs] == [(("up2", 1),), (("down2.0.0", 1),)]
    assert joined.output.axis.terms == (("up2", 1), ("down2.0.0", 1))
    assert norm.call["args"][1] == {"constant": [8], "channel_dim": 0, "dtype": "float32"}
    assert found["down1.1"].call["target"] == "aten.relu.default"


@pytest.mark.parametrize("factory", [models.ResNet, models.ViT, models.Norms, models.Functional, models.ShuffleNet])
def test_every_call_is_json_and_runs_alone(factory):
    model = factory()
    for layer in trace(model, torch.randn(2, 3, 32, 32), verify=False).layers:
        assert json.loads(json.dumps(layer.attributes)) == layer.attributes
        if layer.call is None:
            continue
        call = json.loads(json.dumps(layer.call))

        def rebuilt(value, inputs=layer.inputs):
            if isinstance(value, list):
                return [rebuilt(item) for item in value]
            if isinstance(value, dict) and "input" in value:
                return torch.randn(inputs[value["input"]].shape)
            if isinstance(value, dict) and "constant" in value:
                return torch.rand(value["constant"]).to(getattr(torch, value["dtype"]))
            return getattr(torch, value["torch"]) if isinstance(value, dict) and "torch" in value else value

        namespace, name, overload = call["target"].split(".")
        operator = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        result = operator(*rebuilt(call["args"]), **{key: rebuilt(value) for key, value in call["kwargs"].items()})
        result = result[0] if isinstance(result, tuple | list) else result
        assert tuple(result.shape) == layer.output.shape


def test_shared_parameters_count_once_and_uses_are_numbered():
    found = layers(models.Shared(), torch.randn(1, 3, 8, 8))
    assert found["conv"].parameters == 12 * 12 * 9 + 12
    assert found["conv#2"].parameters == 0
    assert found["conv#2"].macs == found["conv"].macs
    assert sum(layer.parameters for layer in found.values()) == sum(p.numel() for p in models.Shared().parameters())


def test_parameters_of_a_linear_layer_on_tokens_whose_output_is_fixed() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    network = trace(model, torch.randn(2, 3, 6))
    layers = [layer for layer in network.layers if layer.op == "linear"]
    assert [layer.parameters_at({"0": 8, **network.dense_widths}) for layer in layers] == [6 * 8 + 8, 8 * 5 + 5]
    assert [layer.parameters_at({**network.dense_widths, "0": 3}) for layer in layers] == [6 * 3 + 3, 3 * 5 + 5]
