"""Encodings by round trips, by sizes worked out by hand, and by what other programs read."""

from __future__ import annotations

import lzma
import zlib
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from hwprune.errors import InputError
from hwprune.regrow import GMP, SparsePruner, stored_size
from hwprune.regrow.storage import Encoding, Precision, arrays_of, decode, dequantised, encode

from .models import MODELS, OPTIMIZERS, attention, batches, fit

ENCODINGS, PRECISIONS = get_args(Encoding), get_args(Precision)


def sparse_model(kind: str = "convolutions", density: float = 0.1) -> nn.Module:
    model = MODELS[kind]()
    adjust = OPTIMIZERS["sgd"](model.parameters())
    pruner = SparsePruner(model, adjust, GMP(steps=4, interval=1, density=density))
    list(fit(model, adjust, pruner, batches(kind, 4)))
    return model


def gap8_entries(flat: list[float]) -> int:
    """Counted element by element."""
    entries = zeros = 0
    for value in flat:
        if value or zeros == 255:
            entries, zeros = entries + 1, 0
        else:
            zeros += 1
    while flat and entries and not flat[-1]:  # zeros at the end need no entry
        return gap8_entries(flat[: len(flat) - next(i for i, v in enumerate(reversed(flat)) if v)])
    return entries


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int8]),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=30),
        elements=st.sampled_from([0, 0, 0, 0, 0, 1, -3]),
        fill=st.just(0),
    )
)
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_decoded_is_what_was_encoded(encoding: Encoding, values: Any) -> None:
    arrays = {"a": values, "b": np.arange(3, dtype=np.float32)}
    again = decode(encode(arrays, encoding), encoding)
    assert {name: (v.dtype, v.shape) for name, v in again.items()} == {
        name: (v.dtype, v.shape) for name, v in arrays.items()
    }
    assert all(np.array_equal(again[name], value) for name, value in arrays.items())


@pytest.mark.parametrize("gap", [0, 254, 255, 256, 257, 511, 512, 513, 2000])
def test_gaps_longer_than_a_byte(gap: int) -> None:
    values = np.zeros((2, 2000), np.float32)
    values.ravel()[[gap, gap + 1, min(2 * gap + 2, 3999)]] = 1, 2, 3
    data = encode({"a": values}, "gap8")
    assert np.array_equal(decode(data, "gap8")["a"], values)
    head = len(encode({"a": np.zeros((2, 2000), np.float32)}, "gap8"))
    assert abs(len(data) - head - 5 * gap8_entries(values.ravel().tolist())) <= 2  # digits in the header


def test_sizes_by_hand() -> None:
    values = np.zeros((10, 80), np.float32)
    values[:, ::10] = 1  # 80 of 800, nine zeros between two
    dense = len(encode({"a": values}, "dense"))
    assert dense - len(encode({"a": values}, "bitmask")) == 3200 - (100 + 320) - 2 + 1  # "bitmask", 80 for 800
    assert dense - len(encode({"a": values}, "gap8")) == 3200 - (80 + 320) + 1 + 1
    graph = onnx.GraphProto.FromString(encode({"a": values}, "onnx"))
    assert len(graph.sparse_initializer[0].values.raw_data) == 320
    assert len(graph.sparse_initializer[0].indices.raw_data) == 640


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_network_comes_back(encoding: Encoding, precision: Precision) -> None:
    model = sparse_model()
    data = encode(arrays_of(model, precision), encoding)
    size = stored_size(model, encoding, precision)
    assert (size.raw, size.zlib, size.lzma) == (len(data), len(zlib.compress(data, 9)), len(lzma.compress(data)))
    again = dequantised(decode(lzma.decompress(lzma.compress(data)), encoding))
    expected = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    assert again.keys() == expected.keys()
    for name, value in expected.items():
        found = torch.from_numpy(again[name])
        assert not found[value == 0].any()
        if precision == "int8" and value.ndim > 1:
            step = value.abs().flatten(1).amax(1).reshape(-1, *[1] * (value.ndim - 1)) / 127
            assert ((found - value).abs() <= step * 0.5001).all()
        else:
            torch.testing.assert_close(found, value, rtol=1e-3 if precision == "fp16" else 0, atol=1e-7)


def test_a_dense_network_is_no_larger_in_any_encoding() -> None:
    model = attention()
    dense = stored_size(model, "dense").raw
    assert stored_size(model, "bitmask").raw == stored_size(model, "gap8").raw == dense
    parameters = sum(p.numel() for p in model.parameters())
    assert 4 * parameters < dense < 4 * parameters + 1000


def test_sparser_is_smaller() -> None:
    for encoding in ("bitmask", "gap8", "onnx"):
        sizes = [stored_size(sparse_model(density=density), encoding).raw for density in (0.5, 0.2, 0.05)]
        assert sizes == sorted(sizes, reverse=True)


def test_onnx_runtime_reads_the_sparse_initializers() -> None:
    model = nn.Linear(12, 40, bias=False)
    with torch.no_grad():
        model.weight[torch.rand(40, 12) < 0.9] = 0
    graph = onnx.GraphProto.FromString(encode(arrays_of(model, "fp32"), "onnx"))
    assert len(graph.sparse_initializer) == 1
    graph.name = "sparse"
    graph.node.append(onnx.helper.make_node("Gemm", ["x", "weight"], ["y"], transB=1))
    graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 12]))
    graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 40]))
    whole = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(3, 12)
    (y,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach())


def test_shared_weights_are_stored_once() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    apart = stored_size(model, "dense").raw
    model[1].weight = model[0].weight
    assert apart - stored_size(model, "dense").raw > 4 * 64 * 64


def test_what_is_unknown_or_not_finite_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match="encoding 'csr' is unknown"):
        stored_size(model, "csr")
    with pytest.raises(InputError, match="precision 'int4' is unknown"):
        stored_size(model, "dense", "int4")
    nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(InputError, match="weight has values that are not finite"):
        stored_size(model, "dense")
