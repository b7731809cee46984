"""Transformers: embedding width through layer norms, whole attention heads, sizes that modules remember."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwprune.errors import InputError
from hwprune.network import Masks, cut, masked, trace, verify_cut

from . import models

IMAGE = torch.randn(2, 3, 32, 32)
TOLERANCE = 1e-4


class Heads(nn.Module):
    """Attention that computes its sizes from attributes, with a learnt bias per head and relative position."""

    def __init__(self, width: int, heads: int, size: int, *, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_size, self.inner = heads, size, heads * size
        self.scale, self.fused = size**-0.5, fused
        self.qkv = nn.Linear(width, 3 * self.inner)
        self.out = nn.Linear(self.inner, width)
        self.table = nn.Parameter(torch.randn(33, heads))
        self.register_buffer("relative", torch.arange(17)[:, None] - torch.arange(17)[None, :] + 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_size).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = self.table[self.relative.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        else:
            x = ((self.scale * q) @ k.transpose(-2, -1) + bias[None]).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(batch, tokens, self.inner))


class Encoder(models.ViT):
    """Two layers; ``fused`` says how attention is computed."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.attention = Heads(24, 4, 5, fused=fused)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)


class ChannelsFirst(nn.Module):
    """One group over all channels, between convolutions; and a scale whose shape is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(1, 8)
        self.scale = Scale(8)
        self.last = nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale(self.norm(self.first(x))))


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = (channels, 1, 1)
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(self.shape)


def half(network):
    rng = np.random.default_rng(0)
    return {
        g.name: sorted(rng.choice(g.channels, -(-g.channels // 2), replace=False).tolist()) for g in network.cuttable
    }


@pytest.mark.parametrize("fused", [True, False])
def test_width_and_heads_of_a_transformer(fused: bool) -> None:
    torch.manual_seed(0)
    model = Encoder(fused)
    network = trace(model, IMAGE)
    assert {g.name: g.channels for g in network.cuttable} == {"patch": 24, "attention.qkv": 4, "fc1": 96}
    heads = next(g for g in network.cuttable if g.name == "attention.qkv")
    by_head = {(member.tensor, member.dim): member.index for member in heads.members}
    assert by_head.keys() == {
        ("attention.qkv.weight", 0),
        ("attention.qkv.bias", 0),
        ("attention.out.weight", 1),
        ("attention.table", 1),
        ("attention.num_heads", 0),
        ("attention.inner", 0),
    }
    assert {m.tensor for m in heads.members} - {m.tensor for m in heads.tensors} == {
        "attention.num_heads",
        "attention.inner",
    }
    assert [g.positions for g in network.cuttable] == [1, 5, 1]
    for head in range(4):
        rows = {part * 20 + head * 5 + i for part in range(3) for i in range(5)}
        assert set(by_head["attention.qkv.weight", 0][head]) == rows
        assert set(by_head["attention.out.weight", 1][head]) == set(range(head * 5, head * 5 + 5))
        assert by_head["attention.table", 1][head].tolist() == [head]
    kept = half(network)
    smaller = cut(model, network.cuts(kept))
    assert verify_cut(model, smaller, network, kept, IMAGE, tolerance=TOLERANCE).max_relative_error <= TOLERANCE
    assert (smaller.attention.num_heads, smaller.attention.inner, smaller.attention.head_size) == (2, 10, 5)
    assert smaller.norm1.normalized_shape == (12,)
    smaller(IMAGE).sum().backward()


def test_a_layer_norm_of_a_masked_network_sees_what_is_kept() -> None:
    """Zeros alone would be counted by mean and variance."""
    torch.manual_seed(0)
    model = Encoder(True)
    network = trace(model, IMAGE)
    kept = {"patch": list(range(0, 24, 2))}
    smaller, zeroed = cut(model, network.cuts(kept)), masked(model, network, kept)
    torch.testing.assert_close(zeroed(IMAGE), smaller(IMAGE), rtol=TOLERANCE, atol=TOLERANCE)
    plain = copy.deepcopy(model)
    plain.load_state_dict(zeroed.state_dict())
    assert not torch.allclose(plain(IMAGE), smaller(IMAGE), rtol=1e-2, atol=1e-2)


def test_masks_in_training_and_back() -> None:
    torch.manual_seed(0)
    model = Encoder(True)
    network = trace(model, IMAGE)
    before = model(IMAGE)
    masks = Masks(model, network)
    torch.testing.assert_close(model(IMAGE), before)
    masks.remove("patch", range(10))
    masks.apply()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(IMAGE).square().mean().backward()
        optimizer.step()
        masks.apply()
    smaller = cut(model, masks.kept_plan())
    assert not smaller._forward_hooks
    assert not smaller._forward_pre_hooks
    torch.testing.assert_close(model(IMAGE), smaller(IMAGE), rtol=TOLERANCE, atol=TOLERANCE)
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 4, 32, 32))  # what is going on ends with a forward pass that fails
    torch.testing.assert_close(model(IMAGE), smaller(IMAGE), rtol=TOLERANCE, atol=TOLERANCE)
    masks.restore("patch", range(10))
    assert not torch.allclose(model(IMAGE), smaller(IMAGE), rtol=1e-2, atol=1e-2)


def test_one_group_over_all_channels_and_a_remembered_shape() -> None:
    torch.manual_seed(0)
    model = ChannelsFirst()
    network = trace(model, IMAGE)
    assert {g.name: g.channels for g in network.cuttable} == {"first": 8}
    kept = {"first": [0, 3, 6]}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, IMAGE, tolerance=TOLERANCE)
    assert (smaller.norm.num_groups, smaller.norm.num_channels) == (1, 3)
    assert smaller.scale.shape == (3, 1, 1)


def test_rms_norms_are_one_operator_and_see_what_is_kept() -> None:
    class Rms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.norm, self.head = nn.Conv2d(3, 24, 8, 8), nn.RMSNorm(24), nn.Linear(24, 5)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(0)
    model = Rms()
    network = trace(model, IMAGE)
    assert {g.name: g.channels for g in network.cuttable} == {"patch": 24}
    assert [layer.op for layer in network.layers if layer.op != "transpose"] == ["conv", "rms_norm", "mean", "linear"]
    kept = {"patch": list(range(0, 24, 3))}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, IMAGE, tolerance=TOLERANCE)
    assert smaller.norm.normalized_shape == (8,)


class Partial(nn.Module):
    """A part of the channels is convolved, as in FasterNet; ``rest`` says how the code knows the other part's size."""

    def __init__(self, rest: str) -> None:
        super().__init__()
        self.first, self.part = nn.Conv2d(3, 12, 3), nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(12, 5, 1)
        self.sizes = {"attributes": [4, 8], "remainder": 4, "code": None}[rest]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        taken = self.sizes if isinstance(self.sizes, int) else 4
        left, right = x.split(self.sizes if isinstance(self.sizes, list) else [taken, x.shape[1] - taken], 1)
        return self.last(torch.cat([self.part(left), right], 1))


@pytest.mark.parametrize("rest", ["attributes", "remainder", "code"])
def test_unequal_parts(rest: str) -> None:
    torch.manual_seed(0)
    model = Partial(rest)
    network = trace(model, IMAGE)
    found = {g.name: g.channels for g in network.cuttable}
    if rest == "code":
        assert found == {"part": 4}
        assert "taken apart at a fixed position" in next(g.frozen for g in network.frozen if g.name == "first")
        return
    assert found == {"first": 4, "first#2": 8, "part": 4}
    kept = {"first": [0, 3], "first#2": [1, 2, 5]}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, IMAGE, tolerance=TOLERANCE)
    assert smaller.sizes == ([2, 3] if rest == "attributes" else 2)


def test_unequal_parts_some_of_one_size() -> None:
    """As in InceptionNeXt: which of the equal sizes is which, their order tells."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 1)
            self.left, self.right = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
            self.sizes = (8, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x, left, right = self.first(x).split(self.sizes, 1)
            return self.last(torch.cat([x, self.left(left), self.right(right)], 1))

    torch.manual_seed(0)
    model = Three()
    network = trace(model, IMAGE)
    kept = {"first": [0, 3, 4], "first#3": [1], "right": [0]}
    assert {g.name: g.channels for g in network.cuttable} == {
        "first": 8,
        "first#2": 2,
        "first#3": 2,
        "left": 2,
        "right": 2,
    }
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, IMAGE, tolerance=TOLERANCE)
    assert smaller.sizes == (3, 2, 1)


def test_equal_parts_whose_sizes_are_remembered() -> None:
    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 1)
            self.sizes = (4, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat(self.first(x).split(self.sizes, 1)[::-1], 1))

    torch.manual_seed(0)
    model = Four()
    network = trace(model, IMAGE)
    assert {g.name: g.channels for g in network.cuttable} == {"first": 4}
    smaller = cut(model, network.cuts({"first": [0, 3]}))
    verify_cut(model, smaller, network, {"first": [0, 3]}, IMAGE, tolerance=TOLERANCE)
    assert smaller.sizes == (2, 2, 2)


def test_a_size_that_no_operator_was_told_stays() -> None:
    class Told(ChannelsFirst):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self._channels, self.flag = 8, 8, True

    smaller = cut(Told(), trace(Told(), IMAGE).cuts({"first": [0, 1, 2]}))
    assert (smaller.channels, smaller._channels, smaller.flag) == (8, 8, True)
    assert smaller.scale.shape == (3, 1, 1)


def test_a_size_of_two_things_at_once_is_not_guessed() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 8
            self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            for conv in (self.first, self.second):
                x = conv(x).relu()
                x = x.view(x.shape[0], self.width, *x.shape[2:])
            return self.last(x)

    network = trace(Both(), IMAGE)
    assert not network.cuttable
    assert all("is invalid for input of size" in g.frozen for g in network.frozen if g.name in ("first", "second"))


def test_a_plan_with_a_size_is_refused_by_another_model() -> None:
    model = Encoder(True)
    cuts = trace(model, IMAGE).cuts({"attention.qkv": [0, 2]})
    model.attention.num_heads = "four"
    with pytest.raises(InputError, match=r"the plan cuts 'attention.num_heads', which this model does not have"):
        cut(model, cuts)


class ByWidth(nn.Module):
    """The size of a head is computed from the width of the input; the split is by an attribute."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        split = self.qkv(x).split(self.width, 2)
        q, k, v = (one.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2) for one in split)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x.transpose(1, 2).contiguous().view(batch, tokens, width))


class Causal(nn.Module):
    def __init__(self, *heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in heads)
        self.layers = nn.ModuleList(ByWidth(24, count) for count in heads)
        self.mix = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
        self.head = nn.Linear(24, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head(x + self.mix(x))


TOKENS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))


def test_heads_that_are_as_wide_as_the_embedding_together_go_with_it():
    torch.manual_seed(0)
    model = Causal(4, 4).eval()
    network = trace(model, TOKENS)
    assert {group.name: group.channels for group in network.cuttable} == {"embed": 4, "mix.1": 40}
    embed = {(m.tensor, m.dim): m.index.tolist() for m in network.cuttable[0].members}
    assert embed["embed.weight", 1] == embed["layers.1.out.weight", 1] == np.arange(24).reshape(4, 6).tolist()
    assert embed["layers.0.heads", 0] == [[0], [1], [2], [3]]
    assert embed["layers.0.qkv.weight", 0][1] == [*range(6, 12), *range(30, 36), *range(54, 60)]
    kept = {"embed": [0, 3], "mix.1": [1, 5, 7]}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, TOKENS, tolerance=1e-5)
    assert (smaller.layers[0].heads, smaller.layers[0].width) == (2, 12)


def test_heads_of_different_sizes_on_one_embedding_stay_whole_if_no_width_fits_both():
    network = trace(Causal(4, 3).eval(), TOKENS)
    kept = {group.name: range(1, group.channels) for group in network.cuttable}
    model = Causal(4, 3).eval()
    verify_cut(model, cut(model, network.cuts(kept)), network, kept, TOKENS, tolerance=1e-5)
    assert "mix.1" in kept
