import json
import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwprune.deploy import compare
from hwprune.device_runner import open_engine
from hwprune.errors import InputError, ParityError

ROWS = torch.tensor([[3.0, 4.0], [0.0, 5.0]])  # both of norm 5


def test_hand_computed(array_engine):
    engine = array_engine(lambda x: x + np.float32([[0, 0], [0.03, 0.04]]), [(2, 2)], [(2, 2)])
    parity = compare(nn.Identity(), engine, [ROWS])
    assert parity.samples == 2
    assert parity.relative_l2 == pytest.approx(0.05 / 5, rel=1e-5)
    assert parity.max_abs_over_std == pytest.approx(0.04 / math.sqrt(50 / 4 - 3**2), rel=1e-5)
    moved = np.array([3, 4, 0.03, 5.04])
    assert parity.cosine == pytest.approx(moved @ [3, 4, 0, 5] / math.sqrt(50 * (moved @ moved)), abs=1e-9)
    assert parity.top1_agreement == 1
    json.dumps(parity.to_dict(), allow_nan=False)


def test_batches_make_no_difference(networks, exported, images):
    engine = open_engine(str(exported["Residual"]))
    whole = compare(networks["Residual"], engine, [images])
    parts = compare(networks["Residual"], engine, images.split(2))
    assert parts.samples == whole.samples == 9
    assert parts.relative_l2 == pytest.approx(whole.relative_l2, rel=0.5)  # summation order within the model differs


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-6, 1e6), noise=st.floats(1e-6, 1e-1), seed=st.integers(0, 99))
def test_no_absolute_tolerance_hides_in_it(scale, noise, seed):
    class Scaled:
        inputs = outputs = [{"name": "x", "shape": [4, 8], "dtype": "float32"}]  # noqa: RUF012

        def run(self, feeds):
            return [feeds["x"] * np.float32(1 + noise)]

    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)) * scale
    parity = compare(nn.Identity(), Scaled(), [x])
    norms = x.double().norm(dim=1)
    expected = noise * float(norms.max() / norms.square().mean().sqrt())
    assert parity.relative_l2 == pytest.approx(expected, rel=0.1, abs=2e-7)
    if expected > 1.2e-4:
        with pytest.raises(ParityError):
            parity.check("fp32")


def test_one_bad_sample_among_a_thousand_is_not_diluted(array_engine):
    def spoil(x):
        x = x.copy()
        x[617] *= 1.001
        return x

    engine = array_engine(spoil, [(1000, 4)], [(1000, 4)])
    x = torch.ones(1000, 4) + torch.arange(4)
    with pytest.raises(ParityError, match=r"0\.001"):
        compare(nn.Identity(), engine, [x]).check("fp32")


@pytest.mark.parametrize("name", ["Residual", "UNet", "Mobile"])
def test_a_one_percent_slip_in_any_weight_fails_the_gate(name, networks, exported, images):
    """The gate is not vacuous: every single weight tensor of the engine is held by it."""
    proto = onnx.load(exported[name])
    floats = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert len(floats) >= 8
    for tensor in floats:
        original = tensor.raw_data
        array = np.frombuffer(original, np.float32)
        if array.size == 1:
            continue  # the bounds of a ReLU6: whether they bite depends on the data
        tensor.raw_data = (array * np.float32(1.01)).tobytes()
        parity = compare(networks[name], open_engine(proto.SerializeToString()), [images])
        tensor.raw_data = original
        with pytest.raises(ParityError, match="relative L2"):
            parity.check("fp32")


def test_nan_fails(array_engine):
    engine = array_engine(lambda x: x * np.nan, [(2, 2)], [(2, 2)])
    with pytest.raises(ParityError, match="nan"):
        compare(nn.Identity(), engine, [ROWS]).check("fp32")


def test_a_nan_in_an_early_batch_is_not_forgotten(array_engine):
    def first_only(x):
        return np.where(x == 3, np.float32("nan"), x)

    engine = array_engine(first_only, [(1, 2)], [(1, 2)])
    with pytest.raises(ParityError, match="nan"):
        compare(nn.Identity(), engine, [ROWS[:1], ROWS[1:]]).check("fp32")


def test_another_class_fails_even_when_the_norm_is_small(array_engine):
    x = torch.tensor([[1.0, 1.0 + 4e-5, 0.0]])  # clear by more than rounding, but only just
    engine = array_engine(lambda x: x[:, [1, 0, 2]], [(1, 3)], [(1, 3)])
    parity = compare(nn.Identity(), engine, [x])
    assert parity.relative_l2 < 1e-4
    assert (parity.top1_agreement, parity.ties) == (0, 0)
    with pytest.raises(ParityError, match=r"another class than the model for 100\.00% of 1 samples"):
        parity.check("fp32")


def test_a_tie_of_the_reference_is_not_counted(array_engine):
    x = torch.tensor([[1.0, 1.0 + 1e-6], [1.0, 2.0], [3.0, 1.0]])
    engine = array_engine(lambda x: np.float32([[1.0 + 1e-6, 1.0], [1.0, 2.0], [3.0, 1.0]]), [(3, 2)], [(3, 2)])
    parity = compare(nn.Identity(), engine, [x])
    assert (parity.top1_agreement, parity.ties, parity.samples) == (1, 1, 3)
    parity.check("fp32")


def test_dense_outputs_have_no_top1(networks, exported, images):
    assert compare(networks["UNet"], open_engine(str(exported["UNet"])), [images]).top1_agreement is None


def test_the_worst_of_several_outputs_counts(array_engine):
    class Two(nn.Module):
        def forward(self, x):
            return x, x * 100

    engine = array_engine(lambda x: (x * np.float32(1.01), x * 100), [(2, 2)], [(2, 2), (2, 2)])
    assert compare(Two(), engine, [ROWS]).relative_l2 == pytest.approx(0.01, rel=1e-3)


def test_nothing_to_compare(array_engine):
    engine = array_engine(lambda x: x, [(2, 2)], [(2, 2)])
    with pytest.raises(InputError, match="no input"):
        compare(nn.Identity(), engine, [])
    with pytest.raises(ParityError, match="zeros"):
        compare(nn.Identity(), engine, [torch.zeros(2, 2)])


def test_engine_of_another_model(array_engine):
    narrower = array_engine(lambda x: x[:, :1], [(2, 2)], [(2, 1)])
    with pytest.raises(ParityError, match=r"shape \(2, 1\), the model \(2, 2\)"):
        compare(nn.Identity(), narrower, [ROWS])
    more = array_engine(lambda x: (x, x), [(2, 2)], [(2, 2), (2, 2)])
    with pytest.raises(ParityError, match="2 outputs, the model 1"):
        compare(nn.Identity(), more, [ROWS])


def test_model_keeps_its_mode(array_engine):
    model = nn.Sequential(nn.Dropout(0.9), nn.Identity()).train()
    model[1].eval()
    engine = array_engine(lambda x: x, [(2, 2)], [(2, 2)])
    assert compare(model, engine, [ROWS]).relative_l2 == 0  # dropout was off
    assert [module.training for module in model.modules()] == [True, True, False]


def test_gates_by_precision(array_engine):
    engine = array_engine(lambda x: x * np.float32(1.001), [(2, 2)], [(2, 2)])
    parity = compare(nn.Identity(), engine, [ROWS])
    parity.check("fp16")
    with pytest.raises(ParityError):
        parity.check("fp32")
    with pytest.raises(InputError, match="int3"):
        parity.check("int3")


class Beside(nn.Module):
    """A map, and beside it another one that is much smaller."""

    def __init__(self, size):
        super().__init__()
        self.large, self.small, self.size = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1), size

    def forward(self, x):
        return torch.cat([self.large(x), self.size * self.small(x)], 1)


@pytest.mark.parametrize(("size", "error"), [(1e-2, 0.002), (1e-4, 0.2)])
def test_a_small_part_of_an_output_is_held_to_its_own_size(size, error, array_engine, images):
    torch.manual_seed(0)
    model = Beside(size)
    wanted = model(images).detach().numpy()
    wrong = wanted * np.float32([1, 1, 1, 1 + error, 1])[:, None, None]
    for answer in (wanted, wrong):
        engine = array_engine(lambda given, answer=answer: answer, [images.shape], [wanted.shape])
        parity = compare(model, engine, [images])
        assert parity.relative_l2 < 1e-4
        assert parity.relative_l2_of_part == pytest.approx(error if answer is wrong else 0.0, rel=0.2)
    with pytest.raises(ParityError, match="a part of the engine's outputs"):
        parity.check()
