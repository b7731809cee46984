"""The mean over minibatches."""

import numpy as np
import pytest
import torch

from hwprune.errors import InputError
from hwprune.saliency import Accumulator, MagnitudeL2, TaylorBatchNorm, TaylorWeight

from .tiny import Residual, backward


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Residual()


def single(model, seed):
    """Scores of one minibatch alone."""
    accumulator = Accumulator(model.groups(), TaylorBatchNorm())
    backward(model, seed)
    accumulator.update(model)
    return accumulator.scores()


def test_plain_mean_of_minibatches(model):
    each = [single(model, seed) for seed in range(3)]
    accumulator = Accumulator(model.groups(), TaylorBatchNorm())
    for seed in range(3):
        backward(model, seed)
        accumulator.update(model)
    scores = accumulator.scores()
    assert accumulator.batches == 3
    assert list(scores) == ["body", "plain"], "frozen groups have no score"
    for name, score in scores.items():
        assert score.dtype == np.float64
        assert score == pytest.approx(np.mean([one[name] for one in each], axis=0))


def test_the_model_is_left_as_it_is(model):
    backward(model)
    before = {n: (p.detach().clone(), p.grad.clone()) for n, p in model.named_parameters()}
    Accumulator(model.groups(), TaylorBatchNorm()).update(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert torch.equal(parameter.grad, before[name][1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_left_out_whole(model, bad):
    accumulator = Accumulator(model.groups(), TaylorBatchNorm())
    backward(model, 0)
    accumulator.update(model)
    expected = accumulator.scores()
    backward(model, 1)
    model.plain.weight.grad[5, 0, 0, 0] = bad  # spoils one channel of one group only
    accumulator.update(model)
    assert (accumulator.batches, accumulator.skipped) == (1, 1)
    for name, score in accumulator.scores().items():
        assert score.tolist() == expected[name].tolist()


def test_nothing_usable(model):
    accumulator = Accumulator(model.groups(), TaylorWeight())
    backward(model)
    model.conv2.weight.grad[0] = float("nan")
    accumulator.update(model)
    with pytest.raises(InputError, match="1 minibatches had NaN"):
        accumulator.scores()


def test_reset(model):
    accumulator = Accumulator(model.groups(), TaylorBatchNorm())
    backward(model, 0)
    accumulator.update(model)
    accumulator.reset()
    backward(model, 1)
    accumulator.update(model)
    expected = single(model, 1)
    assert accumulator.batches == 1
    assert accumulator.scores()["body"].tolist() == expected["body"].tolist()


def test_gradients_are_needed_by_taylor_only(model):
    with pytest.raises(InputError, match="needs gradients") as caught:
        Accumulator(model.groups(), TaylorBatchNorm()).update(model)
    assert "backward" in caught.value.hint
    accumulator = Accumulator(model.groups(), MagnitudeL2())
    accumulator.update(model)
    assert accumulator.scores()["plain"] == pytest.approx(model.plain.weight.detach().flatten(1).norm(dim=1).numpy())


def test_continues_exactly_from_its_state(model):
    straight = Accumulator(model.groups(), TaylorBatchNorm())
    first = Accumulator(model.groups(), TaylorBatchNorm())
    for seed in range(4):
        backward(model, seed)
        straight.update(model)
        if seed < 2:
            first.update(model)
    state = first.state_dict()
    second = Accumulator(model.groups(), TaylorBatchNorm())
    second.load_state_dict(state)
    for seed in (2, 3):
        backward(model, seed)
        second.update(model)
    for name, score in straight.scores().items():
        assert second.scores()[name].tolist() == score.tolist()
    assert state["batches"] == 2
    assert state["sum"].tolist() == first.state_dict()["sum"].tolist(), "a state does not change afterwards"


def test_state_of_another_criterion_is_refused(model):
    state = Accumulator(model.groups(), TaylorWeight()).state_dict()
    with pytest.raises(InputError, match="taylor-weight over 10 channels, this is taylor-bn over 10"):
        Accumulator(model.groups(), TaylorBatchNorm()).load_state_dict(state)


def test_shared_parameters_are_found_under_either_name(model):
    """``named_parameters`` lists a shared parameter once; a group may know it by its second name."""
    model.alias = model.plain
    groups = model.groups()
    body, plain, frozen = groups.groups
    renamed = tuple(type(m)(m.tensor.replace("plain.", "alias."), m.dim, m.role, m.index) for m in plain.members)
    other = type(groups)(
        (), (body, type(plain)("plain", 6, renamed), frozen), groups.input_shape, groups.output_shape, 0
    )
    backward(model)
    here, there = Accumulator(groups, TaylorBatchNorm()), Accumulator(other, TaylorBatchNorm())
    here.update(model)
    there.update(model)
    assert there.scores()["plain"].tolist() == here.scores()["plain"].tolist()
