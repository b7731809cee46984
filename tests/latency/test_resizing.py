"""Operators at other channel counts, run for real: their output must have the channels that were asked for."""

from __future__ import annotations

from typing import Any

import pytest

from hwprune import device_runner
from hwprune.errors import MissingLatencyError
from hwprune.latency import Layer, key_of
from hwprune.latency.isolate import isolated_models
from hwprune.latency.resizing import resized_call

from .fakes import call, operand

X = {"input": 0}
A, B = operand(1, 32, 8, 8, group="a"), operand(1, 48, 8, 8, group="b")


def parameter(*shape: int, dim: int = 0) -> dict[str, Any]:
    return {"constant": list(shape), "channel_dim": dim, "dtype": "float32"}


def cat(*channels: int) -> Layer:
    inputs = tuple(operand(1, count, 8, 8, group=f"g{count}") for count in channels)
    output = operand(1, sum(channels), 8, 8, group="all")
    return call("cat", "cat", "aten.cat.default", inputs, output, [{"input": i} for i in range(len(inputs))], 1)


OPERATORS = {
    "cat": cat(32, 48),
    "slice": call("s", "slice", "aten.slice.Tensor", (B,), operand(1, 24, 8, 8, group="b"), X, 1, 12, 36),
    "slice to the end": call(
        "s", "slice", "aten.slice.Tensor", (B,), operand(1, 36, 8, 8, group="b"), X, 1, 12, 2**63 - 1
    ),
    "slice from the back": call(
        "s", "slice", "aten.slice.Tensor", (B,), operand(1, 12, 8, 8, group="b"), X, -3, -12, 2**63 - 1
    ),
    "every second": call(
        "s", "slice", "aten.slice.Tensor", (B,), operand(1, 24, 8, 8, group="b"), X, 1, 0, 48, 2
    ),
    "slice of pixels": call("s", "slice", "aten.slice.Tensor", (B,), operand(1, 48, 4, 8, group="b"), X, 2, 2, 6),
    "split": call("s", "split", "aten.split.Tensor", (B,), operand(1, 16, 8, 8, group="b"), X, 16, 1),
    "split into unequal": call(
        "s", "split_with_sizes", "aten.split_with_sizes.default", (B,), operand(1, 24, 8, 8, group="b"),
        X, [24, 16, 8], 1,
    ),
    "pad": call(
        "p", "constant_pad_nd", "aten.constant_pad_nd.default", (A,), operand(1, 48, 10, 8, group="a", fixed=16),
        X, [0, 0, 1, 1, 8, 8], 0.0,
    ),
    "pad of pixels": call(
        "p", "constant_pad_nd", "aten.constant_pad_nd.default", (A,), operand(1, 32, 10, 8, group="a"), X, [0, 0, 1, 1]
    ),
    "group norm": call(
        "n", "group_norm", "aten.native_group_norm.default", (A,), A, 
        X, parameter(32), parameter(32), 1, 32, 64, 8, 1e-5,
    ),
    "batch norm": call(
        "n", "batch_norm", "aten.native_batch_norm.default", (A,), A,
        X, parameter(32), parameter(32), parameter(32), parameter(32), False, 0.1, 1e-5,
    ),
    "prelu": call("r", "prelu", "aten._prelu_kernel.default", (A,), A, X, parameter(1, 32, 1, 1, dim=1)),
    "gate": call("m", "mul", "aten.mul.Tensor", (A, operand(1, 32, 1, 1, group="a")), A),
    "max pool": call(
        "p", "max_pool2d_with_indices", "aten.max_pool2d_with_indices.default", (A,), operand(1, 32, 4, 4, group="a"),
        X, [2, 2],
    ),
    "pixel shuffle": call("p", "pixel_shuffle", "aten.pixel_shuffle.default", 
        (operand(1, 128, 4, 4, group="a", multiplier=4),), A, X, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_output_has_the_channels_asked_for(name: str) -> None:
    layer = OPERATORS[name]
    sizes = [(layer.output.shape[1],), (11,)]
    for (size,), ((point, _), model) in zip(sizes, isolated_models(layer, sizes), strict=True):
        engine = device_runner.open_engine(model)
        output = engine.run(device_runner.example_feeds(engine))[0]
        assert point == (size,)
        assert output.shape == (1, size, *layer.output.shape[2:])


def test_inputs_of_a_concatenation_add_up() -> None:
    for size in range(3, 90):
        shapes, _ = resized_call(cat(3, 64, 16), size)
        assert sum(shape[1] for shape in shapes) == size
        assert all(shape[1] >= 1 for shape in shapes)
    assert [shape[1] for shape in resized_call(cat(32, 48), 40)[0]] == [16, 24]


def test_norm_groups_keep_their_size() -> None:
    _, resized = resized_call(OPERATORS["group norm"], 16)
    assert resized["args"][4] == 16
    assert resized["args"][6] == 4  # groups of 4 channels, as before


def test_keys_do_not_depend_on_the_width() -> None:
    narrow = call(
        "s", "split", "aten.split.Tensor", (operand(1, 24, 8, 8, group="b"),), operand(1, 8, 8, 8, group="b"), X, 8, 1
    )
    assert key_of(narrow).identity == key_of(OPERATORS["split"]).identity


def test_keys_depend_on_what_happens_to_pixels() -> None:
    output = operand(1, 48, 2, 8, group="b")
    other = call("s", "slice", "aten.slice.Tensor", (B,), output, X, 2, 2, 4)
    assert key_of(other).identity != key_of(OPERATORS["slice of pixels"]).identity


def test_an_operator_that_cannot_run_alone_is_named() -> None:
    layer = call("odd", "odd", "aten.no_such_operator.default", (A,), A)
    with pytest.raises(MissingLatencyError, match=r"layer odd: aten\.no_such_operator\.default cannot be meas"):
        list(isolated_models(layer, [(16,)]))


def test_an_operator_whose_output_does_not_follow_is_refused() -> None:
    layer = call("flat", "mean", "aten.mean.dim", (A,), operand(1, 32, 8, group="a"), X, [2, 3])
    with pytest.raises(MissingLatencyError, match=r"its output should be \[1, 16, 8\] and is \[1, 16\]"):
        list(isolated_models(layer, [(16,)]))
