"""Norms over channels that a model writes out: cut and masked are the same, in training too."""

import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hwprune.errors import ModelError
from hwprune.network import Masks, cut, trace, verify_cut


class Rms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + 1e-6))


class ChannelsFirst(nn.Module):
    """A layer norm of images, with an activation inside."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))
        self.act = nn.GELU()

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.act(self.weight[:, None, None] * x + self.bias[:, None, None])


class ResponseNorm(nn.Module):
    """Global response normalisation (Woo et al. 2023, section 3.2)."""

    def __init__(self, width):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def forward(self, x):
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (size / (size.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


class Both(nn.Module):
    """Torch's function, and the same written out, by a flag."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias, self.width = nn.Parameter(torch.rand(width)), nn.Parameter(torch.randn(width)), width
        self.written = True

    def forward(self, x):
        if not self.written:
            return F.layer_norm(x, (self.width,), self.weight, self.bias)
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * self.weight + self.bias


class Tokens(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.embed, self.norm, self.last, self.mix = nn.Linear(6, 16), norm(16), norm(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.last(x + self.mix(self.norm(x))))


class Images(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.stem, self.norm, self.mix, self.last = nn.Conv2d(3, 12, 3), norm(12), nn.Conv2d(12, 8, 1), norm(8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.head(self.last(self.mix(self.norm(self.stem(x)))))


class Last(nn.Module):
    """Images, channels last."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 12, 3), norm(12), nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).permute(0, 2, 3, 1)))


CASES = {
    "rms": (lambda: Tokens(Rms), torch.randn(2, 7, 6), {"embed": 16}),
    "channels first": (lambda: Images(ChannelsFirst), torch.randn(2, 3, 9, 9), {"stem": 12, "mix": 8}),
    "response": (lambda: Last(ResponseNorm), torch.randn(2, 3, 9, 9), {"stem": 12}),
    "both": (lambda: Tokens(Both), torch.randn(2, 7, 6), {"embed": 16}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_norm_that_is_written_out_runs_over_the_channels_that_are_kept(name):
    make, example, widths = CASES[name]
    torch.manual_seed(0)
    model = make().eval()
    network = trace(model, example)
    assert {group.name: group.channels for group in network.cuttable} == widths
    rng = np.random.default_rng(0)
    for count in (1, 3, 5):
        kept = {group: sorted(rng.choice(size, count, replace=False).tolist()) for group, size in widths.items()}
        smaller = cut(model, network.cuts(kept))
        verify_cut(model, smaller, network, kept, example, tolerance=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_training_masked_is_training_cut(name):
    make, example, widths = CASES[name]
    torch.manual_seed(0)
    model = make()
    network = trace(model, example)
    masks, kept = Masks(model, network), {group: list(range(1, size, 2)) for group, size in widths.items()}
    for group, size in widths.items():
        masks.remove(group, range(0, size, 2))
    masks.apply()
    smaller = cut(model, masks.kept_plan())
    for one in (model, smaller):
        torch.optim.SGD(one.parameters(), 0.1).zero_grad()
        one(example).square().mean().backward()
        with torch.no_grad():
            for parameter in one.parameters():
                parameter -= 0.1 * parameter.grad
    masks.apply()
    again = cut(model, network.cuts(kept))
    for (where, wanted), found in zip(smaller.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4, msg=where)
    assert "forward" not in vars(again.norm)
    assert sorted(dict(model.norm.named_parameters())) == sorted(dict(make().norm.named_parameters()))


def test_a_forward_that_fails_leaves_the_norm_as_it_was():
    model = Tokens(Rms)
    masks = Masks(model, trace(model, torch.randn(2, 7, 6)))
    masks.remove("embed", [0, 1])
    weight = model.norm.weight
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 7, 5))
    assert model.norm.weight is weight
    copy.deepcopy(model)


class Again(Tokens):
    """Its middle is computed again in the backward pass."""

    def __init__(self, norm, reentrant):
        super().__init__(norm)
        self.reentrant = reentrant

    def forward(self, x):
        x = self.embed(x)
        x = x + checkpoint(lambda y: self.mix(self.norm(y)), x, use_reentrant=self.reentrant)
        return self.head(self.last(x))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("norm", [nn.LayerNorm, Rms])
def test_what_is_computed_again_in_the_backward_pass_runs_over_the_kept_channels_too(norm, reentrant):
    torch.manual_seed(0)
    model, example = Again(norm, reentrant), torch.randn(2, 7, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")  # tracing needs no gradients
        network = trace(model, example)
    masks = Masks(model, network)
    masks.remove("embed", range(0, 16, 2))
    masks.apply()
    smaller = cut(model, masks.kept_plan())
    for one in (model, smaller):
        one(example).square().mean().backward()
    torch.testing.assert_close(smaller.norm.weight.grad, model.norm.weight.grad[1::2])
    torch.testing.assert_close(smaller.mix.weight.grad, model.mix.weight.grad[1::2, 1::2])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_norm_whose_module_is_not_called_is_refused_where_it_would_be_computed_again(reentrant):
    class Apart(Again):
        def forward(self, x):
            x = self.embed(x)
            given = x.shape[-1:], self.norm.weight, self.norm.bias
            run = lambda y: self.mix(F.layer_norm(y, *given))  # noqa: E731
            x = x + (checkpoint(run, x, use_reentrant=self.reentrant) if torch.is_grad_enabled() else run(x))
            return self.head(self.last(x))

    model, example = Apart(nn.LayerNorm, reentrant), torch.randn(2, 7, 6)
    network = trace(model, example)
    assert [group.name for group in network.cuttable] == ["embed"]
    masks = Masks(model, network)
    model(example).sum().backward()
    masks.remove("embed", [3])
    masks.apply()
    with pytest.raises(ModelError, match="outside of the module that has its weight"):
        model(example)
    with torch.no_grad():
        wanted = cut(model, masks.kept_plan())(example)
        torch.testing.assert_close(model(example), wanted)


class Softened(Rms):
    """Called with a number of its own."""

    def forward(self, x, eps=1e-6):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


class Called(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(6, 16), Softened(16), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.norm(self.embed(x), 0.5) + self.norm(self.embed(x), eps=0.1))


def test_a_norm_that_is_called_with_a_number_besides():
    model, example = Called(), torch.randn(2, 7, 6)
    network = trace(model, example)
    assert [group.name for group in network.cuttable] == ["embed"]
    verify_cut(model, cut(model, network.cuts({"embed": [1, 4, 9]})), network, {"embed": [1, 4, 9]}, example)


class Keywords(nn.Module):
    """Norms that are given their input by name, as modules and as functions."""

    def __init__(self, norm):
        super().__init__()
        self.embed, self.norm, self.last = nn.Linear(6, 16), norm(16), nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        x = self.norm(**{list(inspect.signature(type(self.norm).forward).parameters)[1]: x})
        last = F.layer_norm(input=x, normalized_shape=(x.shape[-1],), weight=self.last.weight, bias=self.last.bias)
        return self.head(last)


class Name(Rms):
    """Its input is called as something that hwprune has a name for, too."""

    def forward(self, name):
        return super().forward(name)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, Rms, Name])
def test_a_norm_that_is_called_by_keyword(norm):
    torch.manual_seed(0)
    model, example, kept = Keywords(norm), torch.randn(2, 7, 6), {"embed": [1, 4, 9]}
    network = trace(model, example)
    assert [group.name for group in network.cuttable] == ["embed"]
    verify_cut(model, cut(model, network.cuts(kept)), network, kept, example)
    masks = Masks(model, network)
    masks.remove("embed", set(range(16)) - set(kept["embed"]))
    masks.apply()
    torch.testing.assert_close(model(example), cut(model, masks.kept_plan())(example))


class WithBuffer(Rms):
    """Besides its parameter it has a buffer as wide."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("scale", torch.rand(width) + 0.5)

    def forward(self, x):
        return super().forward(x) * self.scale


def test_a_norm_that_does_not_run_on_some_channels_keeps_them():
    network = trace(Tokens(WithBuffer), torch.randn(2, 7, 6))
    assert not network.cuttable
    assert any("those channels switched off fails" in (group.frozen or "") for group in network.frozen)


class Frozen(nn.Module):
    """A layer norm that is not trained."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("weight", torch.rand(width) + 0.5)

    def forward(self, x):
        return F.layer_norm(x, (x.shape[-1],), self.weight)


def test_a_layer_norm_that_is_not_trained():
    model, example, kept = Tokens(Frozen), torch.randn(2, 7, 6), {"embed": [1, 4, 9]}
    network = trace(model, example)
    verify_cut(model, cut(model, network.cuts(kept)), network, kept, example)


class Balance(nn.Module):
    """Nothing but a parameter per channel, but what it makes is a number per token."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x):
        return (self.weight * x).mean(-1, keepdim=True)


def test_a_mean_over_channels_that_is_no_norm_keeps_them():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.balance, self.head = nn.Linear(6, 16), Balance(16), nn.Linear(16, 5)

        def forward(self, x):
            x = self.embed(x)
            return self.head(x * self.balance(x).sigmoid())

    network = trace(Gate().eval(), torch.randn(2, 7, 6))
    assert not network.cuttable
    assert {group.name: group.frozen for group in network.frozen}["embed"] == (
        "reduced over the channels (mean in balance)"
    )
