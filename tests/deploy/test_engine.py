import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.deploy import predictor, run_engine
from hwprune.device_runner import open_engine
from hwprune.errors import InputError


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 7), samples=st.integers(1, 20))
def test_any_number_of_samples_through_any_batch(make_twice, batch, samples):
    x = torch.arange(samples * 3, dtype=torch.float32).reshape(samples, 3)
    assert torch.equal(predictor(make_twice(batch))(x), 2 * x)


@pytest.fixture(scope="module")
def make_twice():
    class Twice:
        def __init__(self, batch):
            self.inputs = [{"name": "x", "shape": [batch, 3], "dtype": "float32"}]
            self.outputs = [{"name": "y", "shape": [batch, 3], "dtype": "float32"}]

        def run(self, feeds):
            assert list(feeds["x"].shape) == self.inputs[0]["shape"]
            return [2 * feeds["x"]]

    return Twice


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_real_engine_agrees_with_torch_for_batches_it_was_not_built_for(samples, networks, exported, images):
    with torch.no_grad():
        expected = networks["Mobile"].eval()(images[:samples])
    got = predictor(open_engine(str(exported["Mobile"])))(images[:samples])
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_several_outputs_come_as_a_tuple(array_engine):
    engine = array_engine(lambda a, b: (a + b, a - b), [(2, 3), (2, 3)], [(2, 3), (2, 3)])
    a, b = torch.rand(5, 3), torch.rand(5, 3)
    total, difference = predictor(engine)(a, b)
    assert torch.equal(total, a + b)
    assert torch.equal(difference, a - b)


def test_dynamic_dimensions_take_what_comes(make_twice):
    engine = make_twice(None)
    engine.run = lambda feeds: [2 * feeds["x"]]
    x = torch.rand(11, 3)
    assert torch.equal(predictor(engine)(x), 2 * x)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 4), r"float32 of shape \[2, 4\]"),
        (torch.zeros(2, 3, 1), r"shape \[2, 3, 1\]"),
        (torch.zeros(2, 3, dtype=torch.float64), "float64"),
        (torch.zeros(0, 3), r"shape \[0, 3\]"),
        (torch.tensor(1.0), r"shape \[\]"),
    ],
)
def test_inputs_that_do_not_fit_are_named(make_twice, tensor, message):
    with pytest.raises(InputError, match=message) as caught:
        run_engine(make_twice(2), (tensor,))
    assert "x: float32 [2, 3]" in caught.value.hint


def test_wrong_number_of_inputs(make_twice):
    with pytest.raises(InputError, match="1 inputs, got 2"):
        run_engine(make_twice(2), (torch.zeros(2, 3), torch.zeros(2, 3)))


def test_output_without_a_batch_is_not_split(array_engine):
    engine = array_engine(lambda a: a.sum(0), [(2, 3)], [(3,)])
    assert run_engine(engine, (torch.ones(2, 3),))[0].tolist() == [2, 2, 2]
    with pytest.raises(InputError, match="cannot be split"):
        run_engine(engine, (torch.ones(3, 3),))


def test_inputs_that_disagree_on_the_batch(array_engine):
    engine = array_engine(lambda a, b: a + b, [(2, 3), (2, 3)], [(2, 3)])
    with pytest.raises(InputError, match="cannot be split"):
        run_engine(engine, (torch.ones(4, 3), torch.ones(2, 3)))
