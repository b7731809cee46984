"""``nn.MultiheadAttention``: the same results as torch's, and heads and embedding widths that can be cut."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.network import cut, trace, verify_cut
from hwprune.network.attention import ResizableAttention, make_resizable

WIDTH, HEADS = 32, 4
TOKENS = torch.randn(3, 7, WIDTH)


def resizable(layer):
    changed = copy.deepcopy(layer)
    make_resizable(changed)
    assert type(changed) is ResizableAttention
    return changed


def stirred(layer):
    """Torch starts its biases at zero."""
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() == 1:
                parameter.normal_()
    return layer.eval()


OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True, "add_bias_kv": True},
    {"kdim": 20, "vdim": 24},
]


@pytest.mark.parametrize("need_weights", [False, True, "each head"])
@pytest.mark.parametrize("masks", [(), ("causal",), ("heads",), ("padding",), ("causal", "padding"), ("scores",)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_answers_like_torchs(options, masks, need_weights):
    torch.manual_seed(0)
    layer = stirred(nn.MultiheadAttention(WIDTH, HEADS, **options))
    first = options.get("batch_first", False)
    shape = lambda length, width: (2, length, width) if first else (length, 2, width)  # noqa: E731
    query = torch.randn(shape(5, WIDTH))
    key, value = (torch.randn(shape(6, options.get(name, WIDTH))) for name in ("kdim", "vdim"))
    given = {
        "causal": torch.ones(5, 6, dtype=torch.bool).triu(1),
        "heads": torch.randn(2 * HEADS, 5, 6) > 1.5,
        "scores": torch.randn(5, 6),
    }
    arguments = {
        "attn_mask": next((given[mask] for mask in masks if mask in given), None),
        "key_padding_mask": torch.arange(6).expand(2, 6) > torch.tensor([[3], [5]]) if "padding" in masks else None,
        "need_weights": bool(need_weights),
        "average_attn_weights": need_weights != "each head",
    }
    wanted = layer(query, key, value, **arguments)
    found = resizable(layer)(query, key, value, **arguments)
    torch.testing.assert_close(found[0], wanted[0], atol=1e-5, rtol=1e-5)
    assert (found[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        torch.testing.assert_close(found[1], wanted[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_first", [False, True])
def test_it_answers_like_torchs_to_one_sequence_without_a_batch(batch_first):
    layer = stirred(nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first))
    x, padding = torch.randn(5, WIDTH), torch.tensor([False, False, False, True, True])
    for wanted, found in zip(
        layer(x, x, x, key_padding_mask=padding), resizable(layer)(x, x, x, key_padding_mask=padding), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_dropout_acts_in_training_only():
    layer = resizable(nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=True))
    assert not torch.equal(layer(TOKENS, TOKENS, TOKENS)[0], layer(TOKENS, TOKENS, TOKENS)[0])
    layer.eval()
    assert torch.equal(layer(TOKENS, TOKENS, TOKENS)[0], layer(TOKENS, TOKENS, TOKENS)[0])


def test_a_causal_hint_without_a_mask_is_refused_as_by_torch():
    for layer in (nn.MultiheadAttention(WIDTH, HEADS), resizable(nn.MultiheadAttention(WIDTH, HEADS))):
        with pytest.raises(RuntimeError, match="Need attn_mask"):
            layer(TOKENS, TOKENS, TOKENS, is_causal=True, need_weights=False)


class Tagger(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.embed, self.body, self.out = nn.Linear(12, WIDTH), body, nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.out(self.body(self.embed(x)))


class Attending(nn.Module):
    """Attention as most people call it: with weights that they throw away."""

    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)

    def forward(self, x):
        return x + self.attention(x, x, x)[0]


class Translating(nn.Module):
    """An encoder whose result a decoder attends to."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(WIDTH, HEADS, 40, batch_first=True)

    def forward(self, x):
        return self.decoder(x[:, :3], self.encoder(x))


def encoder(**options):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


BODIES = {
    "encoder": (lambda: encoder(batch_first=True), {"body.layers.0.self_attn": HEADS, "body.layers.1.linear1": 64}),
    "norm first": (lambda: encoder(norm_first=True), {"body.layers.1.self_attn": HEADS}),
    "decoder": (Translating, {"body.decoder.multihead_attn": HEADS, "body.decoder.self_attn": HEADS}),
    "weights thrown away": (Attending, {"body.attention": HEADS}),
    "learnt keys": (lambda: Attending(add_bias_kv=True), {"body.attention": HEADS}),
    "separate": (lambda: Attending(kdim=WIDTH, vdim=WIDTH, bias=False), {"body.attention": HEADS}),
}


@pytest.mark.parametrize("name", BODIES)
def test_heads_and_the_width_of_the_embedding_are_cut(name):
    torch.manual_seed(0)
    make, wanted = BODIES[name]
    model = stirred(Tagger(make()))
    example = torch.randn(3, 7, 12)
    network = trace(model, example)
    widths = {group.name: group.channels for group in network.cuttable}
    assert widths["embed"] == WIDTH
    assert wanted.items() <= widths.items()
    rng = np.random.default_rng(0)
    kept = {g.name: sorted(rng.choice(g.channels, g.channels // 2, replace=False).tolist()) for g in network.cuttable}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, example, tolerance=1e-5)
    layers = [module for module in smaller.modules() if isinstance(module, nn.MultiheadAttention)]
    assert {layer.num_heads for layer in layers} == {HEADS // 2}
    smaller.train()(example).sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())
    again = cut(Tagger(make()), network.cuts(kept))
    again.load_state_dict(smaller.state_dict())


def test_layers_that_are_not_cut_stay_torchs_own():
    model = nn.Sequential(nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH), nn.TransformerEncoderLayer(WIDTH, HEADS, 64)).eval()
    network = trace(model, TOKENS)
    smaller = cut(model, network.cuts({"0": [1, 2], "2.linear1": list(range(9))}))
    assert type(smaller[2].self_attn) is nn.MultiheadAttention
    smaller = cut(model, network.cuts({"2.self_attn": [1, 2]}))
    assert type(smaller[2].self_attn) is ResizableAttention
    assert type(model[2].self_attn) is nn.MultiheadAttention


def test_heads_whose_weights_are_wanted_stay_whole():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.attention = nn.Linear(12, WIDTH), nn.MultiheadAttention(WIDTH, HEADS)

        def forward(self, x):
            x = self.embed(x)
            return self.attention(x, x, x)

    network = trace(Both().eval(), torch.randn(3, 7, 12))
    assert [group.name for group in network.cuttable] == ["embed"]
    assert any("in attention" in group.frozen for group in network.frozen)
