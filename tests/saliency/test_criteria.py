"""Every criterion against numbers that were worked out another way."""

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.network.network import ChannelGroup, Member
from hwprune.saliency import BatchNormScale, MagnitudeL1, MagnitudeL2, TaylorBatchNorm, TaylorWeight, criteria

from .tiny import Residual, backward, member, norm_members


@pytest.fixture
def trained():
    """A model with gradients, its groups, and what criteria read."""
    torch.manual_seed(0)
    model = Residual()
    for gate in (model.body_gate, model.plain_gate):
        gate.alpha.grad = None
    backward(model)
    parameters = dict(model.named_parameters())
    body, plain = model.groups().cuttable
    return model, body, plain, parameters, {name: p.grad for name, p in parameters.items()}


def test_taylor_on_batch_norm_is_the_gradient_of_a_gate(trained):
    """One gate on both batch norms of the residual: its gradient is the signed sum HALP takes."""
    model, body, _, parameters, gradients = trained
    score = TaylorBatchNorm().score(body, parameters, gradients)
    assert torch.allclose(score, model.body_gate.alpha.grad.flatten().abs(), rtol=1e-4, atol=1e-6)


def test_taylor_on_weights_is_the_gradient_of_a_gate(trained):
    model, _, plain, parameters, gradients = trained
    score = TaylorWeight().score(plain, parameters, gradients)
    assert torch.allclose(score, model.plain_gate.alpha.grad.flatten().abs(), rtol=1e-4, atol=1e-6)


def test_taylor_on_weights_behind_batch_norm_is_the_gradient_of_a_gate(trained):
    """The filters' own sum is zero there whatever they are worth; that of their readers is not."""
    model, body, _, parameters, gradients = trained
    own = (parameters["conv1.weight"] * gradients["conv1.weight"]).sum(dim=(1, 2, 3))
    gate = model.body_gate.alpha.grad.flatten().abs()
    assert float(own.detach().abs().max()) < 1e-4 * float(gate.max())
    assert torch.allclose(TaylorWeight().score(body, parameters, gradients), gate, rtol=1e-4, atol=1e-6)


def test_taylor_on_batch_norm_uses_weights_where_there_is_no_norm(trained):
    _, _, plain, parameters, gradients = trained
    assert torch.equal(
        TaylorBatchNorm().score(plain, parameters, gradients), TaylorWeight().score(plain, parameters, gradients)
    )


def test_taylor_on_batch_norm_uses_weights_where_the_norm_is_frozen(trained):
    _, body, _, parameters, gradients = trained
    without = {name: g for name, g in gradients.items() if not name.startswith("bn")}
    assert torch.equal(
        TaylorBatchNorm().score(body, parameters, without), TaylorWeight().score(body, parameters, gradients)
    )


def test_coupled_terms_cancel_before_the_absolute_value():
    group = ChannelGroup("g", 2, (*norm_members("a", 2), *norm_members("b", 2)))
    parameters = {
        "a.weight": torch.tensor([1.0, 2.0]),
        "a.bias": torch.tensor([1.0, 0.0]),
        "b.weight": torch.tensor([3.0, 1.0]),
        "b.bias": torch.tensor([0.0, 4.0]),
    }
    gradients = {
        "a.weight": torch.tensor([2.0, 1.0]),
        "a.bias": torch.tensor([1.0, 9.0]),
        "b.weight": torch.tensor([-1.0, 2.0]),
        "b.bias": torch.tensor([7.0, -0.25]),
    }
    # channel 0: 1·2 + 1·1 + 3·(−1) + 0·7 = 0;  channel 1: 2·1 + 0·9 + 1·2 + 4·(−0.25) = 3
    assert TaylorBatchNorm().score(group, parameters, gradients).tolist() == [0.0, 3.0]
    # |1| + |3| and |2| + |1|
    assert BatchNormScale().score(group, parameters, {}).tolist() == [4.0, 3.0]


def test_positions_that_belong_to_one_channel_count_together():
    """Group norm: a channel of the group is a whole set of positions, here interleaved."""
    index = np.array([[0, 2], [3, 1]])
    group = ChannelGroup("g", 2, (Member("gn.weight", 0, "norm", index), Member("conv.weight", 0, "out", index)))
    parameters = {
        "gn.weight": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "conv.weight": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
    }
    gradients = {"gn.weight": torch.tensor([1.0, 1.0, -1.0, 1.0]), "conv.weight": torch.ones(4, 1)}
    assert TaylorBatchNorm().score(group, parameters, gradients).tolist() == [2.0, 6.0]
    without_norm = ChannelGroup("g", 2, group.members[1:])
    assert TaylorWeight().score(without_norm, parameters, gradients).tolist() == [4.0, 6.0]
    assert MagnitudeL1().score(group, parameters, {}).tolist() == [4.0, 6.0]
    assert MagnitudeL2().score(group, parameters, {}).tolist() == pytest.approx([10**0.5, 20**0.5])
    assert BatchNormScale().score(group, parameters, {}).tolist() == [4.0, 6.0]


def test_magnitude_is_the_norm_of_all_filters_of_a_channel(trained):
    model, body, plain, parameters, _ = trained
    filters = torch.cat([model.conv1.weight.flatten(1), model.conv2.weight.flatten(1)], dim=1).detach()
    assert torch.allclose(MagnitudeL1().score(body, parameters, {}), filters.norm(p=1, dim=1))
    assert torch.allclose(MagnitudeL2().score(body, parameters, {}), filters.norm(p=2, dim=1))
    own = model.plain.weight.flatten(1).detach()
    assert torch.allclose(MagnitudeL2().score(plain, parameters, {}), own.norm(dim=1)), "biases do not count"


def test_transposed_convolution_counts_its_output_side():
    conv = nn.ConvTranspose2d(3, 5, 2)
    group = ChannelGroup("up", 5, (member("weight", 1, "out", 5), member("bias", 0, "out", 5)))
    score = MagnitudeL1().score(group, dict(conv.named_parameters()), {})
    assert torch.allclose(score, conv.weight.detach().abs().sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("name", sorted(criteria()))
class TestEveryCriterion:
    """What the interface promises."""

    def test_shape_type_and_sign(self, name, trained):
        _, body, _, parameters, gradients = trained
        score = criteria()[name].score(body, parameters, gradients)
        assert score.shape == (4,)
        assert score.dtype == torch.float32
        assert bool((score >= 0).all())
        assert not score.requires_grad

    def test_name_and_need(self, name, trained):
        _, body, _, parameters, _ = trained
        criterion = criteria()[name]
        assert criterion.name == name
        if criterion.needs_gradients:
            with pytest.raises(InputError, match="'body'"):
                criterion.score(body, parameters, {})
        else:
            assert criterion.score(body, parameters, {}).shape == (4,)

    def test_half_precision_is_summed_in_full(self, name, trained):
        _, body, _, parameters, gradients = trained
        half = {n: p.detach().bfloat16() for n, p in parameters.items()}
        slopes = {n: g.bfloat16() for n, g in gradients.items()}
        score = criteria()[name].score(body, half, slopes)
        exact = criteria()[name].score(
            body, {n: p.double().float() for n, p in half.items()}, {n: g.float() for n, g in slopes.items()}
        )
        assert torch.equal(score, exact)

    def test_channels_swapped_in_the_tensors_swap_their_scores(self, name, trained):
        _, body, _, parameters, gradients = trained
        before = criteria()[name].score(body, parameters, gradients)
        order = np.array([2, 0, 3, 1])
        swapped = ChannelGroup("body", 4, tuple(Member(m.tensor, m.dim, m.role, m.index[order]) for m in body.members))
        assert torch.equal(criteria()[name].score(swapped, parameters, gradients), before[torch.tensor(order)])


def test_a_group_without_norm_has_no_batch_norm_scale(trained):
    _, _, plain, parameters, _ = trained
    with pytest.raises(InputError, match="'plain'") as caught:
        BatchNormScale().score(plain, parameters, {})
    assert "magnitude-l2" in caught.value.hint


def test_a_group_that_no_weights_make():
    group = ChannelGroup("g", 2, (member("scale", 0, "scale", 2),))
    with pytest.raises(InputError, match="no weights"):
        MagnitudeL1().score(group, {"scale": torch.ones(2)}, {})


def test_read_only_index_maps():
    index = np.arange(2, dtype=np.int64).reshape(2, 1)
    index.flags.writeable = False
    group = ChannelGroup("g", 2, (Member("w", 0, "out", index),))
    assert MagnitudeL1().score(group, {"w": torch.tensor([[1.0], [-2.0]])}, {}).tolist() == [1.0, 2.0]
