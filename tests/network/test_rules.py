"""Identities follow the data: the rules against the operators themselves, run on tensors of identities."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.network import propagation
from hwprune.network.deadline import Deadline
from hwprune.network.forward import tensors_of
from hwprune.network.grouping import components
from hwprune.network.labels import Labelled, Labels
from hwprune.network.recording import record

from . import models


def follow(function, shape, dim):
    """Labels of the function's outputs when dimension ``dim`` of its input carries identities; frozen ids."""
    labels = Labels()
    recording = record(models.Call(function), torch.zeros(shape), Deadline(30))
    recording.outputs, outputs = (), recording.outputs
    original = propagation._leaf

    def leaf(recording, index, labels):
        if recording.values[index].source != "input":
            return original(recording, index, labels)
        return Labelled(tuple(shape), {dim: labels.block("x", dim, shape[dim])}, origin="x")

    propagation._leaf = leaf
    try:
        labelled = propagation.propagate(recording, labels)
    finally:
        propagation._leaf = original
    frozen = {int(i) for ids, _ in labels.freezes for i in ids}
    return [labelled[output.index] for output in outputs], components(labels.size, labels.ties), frozen


def identities(shape, dim):
    ids = torch.arange(shape[dim], dtype=torch.float32)
    return ids.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape).clone()


def check(function, shape, dim):
    """Each output either carries, at every position, the identity that came there, or its source is frozen."""
    outputs, root, frozen = follow(function, shape, dim)
    frozen_roots = {int(root[i]) for i in frozen}
    for labelled, moved in zip(outputs, tensors_of(function(identities(shape, dim))), strict=True):
        came = moved.long()
        if not labelled.dims:
            assert {int(root[i]) for i in came.unique()} <= frozen_roots or moved.numel() == 0
            continue
        assert len(labelled.dims) == 1
        (out_dim, ids), *_ = labelled.dims.items()
        assert ids.size == moved.shape[out_dim]
        told = torch.as_tensor(root[ids]).reshape([-1 if d == out_dim else 1 for d in range(moved.dim())])
        assert torch.equal(told.expand(moved.shape), torch.as_tensor(root)[came])


SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4).filter(lambda s: math.prod(s) <= 150)


@st.composite
def factorised(draw, volume):
    """A random shape of this volume."""
    shape = []
    while volume > 1 and len(shape) < 4:
        shape.append(draw(st.sampled_from([d for d in range(1, volume + 1) if volume % d == 0])))
        volume //= shape[-1]
    return [*shape, volume] if volume > 1 or not shape else shape


@st.composite
def moves(draw, shape):
    """One operator that moves values without changing them."""
    rank = len(shape)
    dim = draw(st.integers(0, rank - 1))
    kind = draw(st.sampled_from(["view", "permute", "slice", "split", "flip", "repeat", "unsqueeze", "stack", "cat"]))
    size = shape[dim]
    if kind == "view":
        target = draw(factorised(math.prod(shape)))
        return lambda x: x.reshape(target)
    if kind == "permute":
        order = draw(st.permutations(range(rank)))
        return lambda x: x.permute(order)
    if kind == "slice":
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        return lambda x: x.narrow(dim, start, stop - start)
    if kind == "split":
        part = draw(st.integers(1, size))
        return lambda x: x.split(part, dim)[0]
    simple = {
        "flip": lambda x: x.flip(dim),
        "repeat": lambda x: x.repeat([2 if d == dim else 1 for d in range(rank)]),
        "unsqueeze": lambda x: x.unsqueeze(dim),
        "stack": lambda x: torch.stack([x, x], dim),
        "cat": lambda x: torch.cat([x, x.flip(dim)], dim),
    }
    return simple[kind]


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_chain_of_moves_is_followed_position_by_position(data):
    shape = data.draw(SHAPES)
    dim = data.draw(st.integers(0, len(shape) - 1))
    chain, sample = [], torch.zeros(shape)
    for _ in range(data.draw(st.integers(1, 3))):
        move = data.draw(moves(list(sample.shape)))
        sample = move(sample)
        if sample.dim() < 1:
            return
        chain.append(move)

    def function(x):
        for move in chain:
            x = move(x)
        return x

    check(function, shape, dim)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: x.flatten(0, 1),
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 12),
        lambda x: x.unflatten(1, (3, 4)),
        lambda x: x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: F.channel_shuffle(x, 3),
        lambda x: x.chunk(3, 1),
        lambda x: x.unbind(2),
        lambda x: x[:, :, 1:, ::2],
        lambda x: x[:, ::2],
        lambda x: x[:, :-3],
        lambda x: x[:, -100:-3],
        lambda x: x[:, 2:-3],
        lambda x: x[:, -5:100],
        lambda x: x[:, -5:8],
        lambda x: x[:, 3],
        lambda x: x[..., 0, 0],
        lambda x: x.roll(1, 1),
        lambda x: x.roll(1, 2),
        lambda x: x.squeeze(),
        lambda x: x.mean((2, 3)),
        lambda x: x.amax(-1, keepdim=True),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
        lambda x: x.unfold(2, 2, 2),
        lambda x: x.expand(2, *x.shape),
        lambda x: x.mT,
        lambda x: torch.movedim(x, 1, 3),
        lambda x: x.type(torch.float64).clone().contiguous(),
        lambda x: torch.where(x > -1, x, -x),
        lambda x: torch.zeros_like(x).copy_(x),
    ],
)
def test_operators_that_move_channels_are_followed(function):
    check(function, (2, 12, 4, 4), 1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.softmax(1), "every channel depends"),
        (lambda x: x.sum(1), "reduced over the channels"),
        (lambda x: x.sort(1)[0], "every channel depends"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "layer normalisation"),
        (lambda x: torch.fft.rfft(x).real, "no rule for the operator aten._fft_r2c"),
        (lambda x: x + torch.arange(12.0).view(12, 1, 1), "whose size is fixed"),
        (lambda x: torch.zeros(2, 12, 4, 4).copy_(x), "whose size is fixed"),
        (lambda x: x.flatten(2) @ x.flatten(2).mT @ x.flatten(2), "two activations are multiplied"),
        (lambda x: x[:, torch.tensor([3, 1])], "channels are picked by their positions"),
        (lambda x: x[:, torch.arange(12) < 7], "no rule for the operator aten.index"),
        (lambda x: x.mean((1, 2, 3), keepdim=True) * x, "reduced over the channels"),
        (lambda x: F.conv2d(x.unsqueeze(1).flatten(0, 1).transpose(1, 2), torch.ones(2, 4, 1, 1)), "slides along"),
        (lambda x: torch.cat([x, x], 1, out=torch.empty(0)), "no rule for the operator aten.cat.out"),
    ],
)
def test_what_mixes_channels_freezes_all_of_them_and_says_why(function, reason):
    labels = Labels()
    recording = record(models.Call(function), torch.zeros(2, 12, 4, 4), Deadline(30))
    original = propagation._leaf
    propagation._leaf = lambda recording, index, labels: (
        Labelled((2, 12, 4, 4), {1: labels.block("x", 1, 12)}, origin="x")
        if recording.values[index].source == "input"
        else original(recording, index, labels)
    )
    try:
        propagation.propagate(recording, labels)
    finally:
        propagation._leaf = original
    root = components(labels.size, labels.ties)
    why = [text for ids, text in labels.freezes if set(root[ids].tolist()) >= {int(r) for r in root[:12]}]
    assert any(reason in text for text in why), labels.freezes
