import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwprune.errors import InputError
from hwprune.network.loading import load_weights
from hwprune.training import load_checkpoint, save_checkpoint, save_weights
from hwprune.training.checkpoint import _pack, _unpack

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return (
            list(a) == list(b)
            and all(type(x) is type(y) for x, y in zip(a, b, strict=True))
            and all(same(a[key], b[key]) for key in a)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    return (torch.rand(shape) * 5).to(draw(st.sampled_from(DTYPES)))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors()
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(tree=TREES)
def test_any_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    save_checkpoint(path, tree)
    assert same(load_checkpoint(path), tree)


def test_arrays_views_and_shared_memory(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"a": base.t(), "b": base[1:], "c": base, "numpy": np.arange(3), "scalar": torch.tensor(2)}
    save_checkpoint(tmp_path / "c", tree)
    back = load_checkpoint(tmp_path / "c")
    assert same(back, tree)
    back["c"].zero_()
    assert same(load_checkpoint(tmp_path / "c"), tree)


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_an_optimizer_continues_as_if_it_had_never_stopped(tmp_path, make):
    def step(model, optimizer):
        model(torch.arange(3.0)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    step(model, optimizer)
    save_checkpoint(tmp_path / "c", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    step(model, optimizer)

    saved = load_checkpoint(tmp_path / "c")
    other = nn.Linear(3, 2)
    other.load_state_dict(saved["model"])
    resumed = make(other.parameters())
    resumed.load_state_dict(saved["optimizer"])
    step(other, resumed)
    assert torch.equal(other.weight, model.weight)
    assert same(resumed.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("value", [{1.5: 0}, {True: 0}, object(), {"a": [{2, 3}]}, np.float32(3), lambda: 0])
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(TypeError, match="tree"):
        save_checkpoint(tmp_path / "c", value)
    assert not list(tmp_path.iterdir())


def test_the_last_checkpoint_survives_a_failed_one(tmp_path, monkeypatch):
    path = tmp_path / "c"
    save_checkpoint(path, {"epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("length", [0, 7, 60, 300, -1])
def test_truncated(tmp_path, length):
    path = tmp_path / "c"
    save_checkpoint(path, {"weights": torch.rand(100)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_checkpoint(path)
    assert "damaged" in caught.value.hint


def test_other_files(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(tmp_path / "c")
    (tmp_path / "c").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path / "c")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "c")  # weights, but no checkpoint
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "{}",
        '{"schema_version": 2, "tree": 1}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "tree": {"tensor": "9"}}',
        '{"schema_version": 1, "tree": {"code": "x"}}',
        '{"schema_version": 1, "tree": {"dict": [[[], 1]]}}',
        '{"schema_version": 1, "tree": {"dict": 3}}',
        '{"schema_version": 1, "tree": {}}',
        '{"schema_version": 1, "tree": ' + '{"list": [' * 3000 + "]}" * 3000 + "}",
    ],
)
def test_damaged_trees(tmp_path, document):
    safetensors.torch.save_file({"0": torch.zeros(1)}, tmp_path / "c", metadata={"hwprune": document})
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "c")


def test_the_skeleton_is_strict_json():
    tree = {"x": [float("nan"), float("-inf")], 3: (1, None)}
    packed = json.loads(json.dumps(_pack(tree, {}, "tree"), allow_nan=False))
    assert same(_unpack(packed, {}), tree)


def test_weights_with_tied_tensors(tmp_path):
    source, target = nn.Linear(3, 3), nn.Linear(3, 3)
    for model in (source, target):
        model.register_parameter("tied", model.weight)
    save_weights(tmp_path / "w.safetensors", source)
    load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target.weight, source.weight)
    assert target.tied is target.weight
