import copy
import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwprune.deploy import compare, export_onnx, run_engine
from hwprune.device_runner import open_engine
from hwprune.errors import InputError, ModelError


@pytest.mark.parametrize("name", ["Residual", "UNet", "Mobile"])
def test_engine_computes_what_the_model_computes(name, networks, exported, images):
    parity = compare(networks[name], open_engine(str(exported[name])), [images[:4], images[4:]])
    parity.check("fp32")
    assert parity.samples == 9
    assert parity.relative_l2 < 1e-5


@pytest.mark.parametrize("name", ["Residual", "UNet", "Mobile"])
def test_file_is_whole_valid_and_of_fixed_shape(name, networks, exported):
    proto = onnx.load(exported[name])
    onnx.checker.check_model(proto, full_check=True)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    engine = open_engine(exported[name].read_bytes())  # bytes: no neighbouring file can be read
    assert [port["name"] for port in engine.inputs] == ["input"]
    assert engine.inputs[0]["shape"] == [2, 3, 16, 16]
    assert engine.outputs[0]["shape"] == list(networks[name](torch.zeros(2, 3, 16, 16)).shape)


def test_only_the_file_is_left_behind(exported):
    folder = exported["UNet"].parent
    assert sorted(path.name for path in folder.iterdir()) == ["Mobile.onnx", "Residual.onnx", "UNet.onnx"]


def test_same_model_gives_the_same_bytes_and_nothing_of_this_machine(networks, exported, tmp_path):
    again = export_onnx(copy.deepcopy(networks["UNet"]), torch.ones(2, 3, 16, 16), tmp_path / "other.onnx")
    content = exported["UNet"].read_bytes()
    assert again.path.read_bytes() == content
    assert again.size_bytes == len(content)
    for trace in (b"site-packages", b'File "', b"conftest", str(tmp_path.parent).encode()):
        assert trace not in content


def test_model_and_random_state_are_left_as_they_were(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    model.train()
    model[1].eval()  # a frozen normalisation among training modules
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    export_onnx(model, torch.randn(1, 1, 8, 8, generator=torch.Generator()), tmp_path / "m.onnx")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Nested(nn.Module):
    def forward(self, a, b):
        return {"sum": a + b, "parts": (a * 2, [b * 3])}


def test_several_inputs_and_nested_outputs_keep_their_order(tmp_path):
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    info = export_onnx(Nested(), (a, b), tmp_path / "m.onnx")
    assert info.inputs == ("input_0", "input_1")
    assert info.outputs == ("output_0", "output_1", "output_2")
    outputs = run_engine(open_engine(str(info.path)), (a, b))
    for got, want in zip(outputs, (a + b, a * 2, b * 3), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_exporters_standing_noise_is_held_back(networks, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        export_onnx(networks["Residual"], torch.zeros(1, 3, 16, 16), tmp_path / "m.onnx")
    assert "torchvision" not in caplog.text


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Eigen(nn.Module):
    def forward(self, x):
        return torch.linalg.eigh(x @ x.mT)[0]


class Words(nn.Module):
    def forward(self, x):
        return x, "a cat"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(4, 8, 3), r"input of shape \(1, 3, 8, 8\): RuntimeError"),
        (Branching(), "no ONNX form"),
        (Eigen(), "no ONNX form.*eigh"),
        (Words(), "returns a str"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(model, message, tmp_path):
    with pytest.raises(ModelError, match=message) as caught:
        export_onnx(model, torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/m.onnx", "."])
def test_a_place_that_cannot_be_written(place, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        export_onnx(nn.ReLU(), torch.randn(1, 3), tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"earlier")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        export_onnx(nn.ReLU(), torch.randn(1, 3), path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"earlier"


class Clipped(nn.Module):
    """A layer whose input and output are clipped to ranges in buffers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        for name, value in (("low", -0.4), ("high", 0.5), ("least", -0.3), ("most", 0.3)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.clamp(self.low, self.high)).clamp(self.least, self.most)


class Clips(nn.Module):
    """What one layer clipped is clipped again by several."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.others = Clipped(3, 4), nn.ModuleList(Clipped(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.others[0](torch.nn.functional.gelu(self.others[1](x)) * self.others[2](x))


def test_several_clips_of_one_clipped_value(tmp_path):
    torch.manual_seed(0)
    model, image = Clips().eval(), torch.randn(1, 3, 6, 6)
    export_onnx(model, image, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert {node.op_type for node in graph.node} <= {"Clip", "Max", "Min", "Conv", "Gelu", "Mul"}
    (found,) = open_engine(str(tmp_path / "model.onnx")).run({"input": image.numpy()})
    np.testing.assert_allclose(found, model(image).detach().numpy(), rtol=1e-4, atol=1e-6)
