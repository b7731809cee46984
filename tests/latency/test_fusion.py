from __future__ import annotations

import dataclasses

from hwprune.latency import fused_into
from hwprune.targets.onnxruntime import OnnxRuntime

from .fakes import call, conv, operand, residual_network

RUNTIME = OnnxRuntime()
A = operand(1, 64, 8, 8, group="a")


def relu(name: str, *follows: str):
    return dataclasses.replace(call(name, "relu", "aten.relu.default", (A,), A), follows=follows)


def add(name: str, *follows: str, other=A):
    return dataclasses.replace(call(name, "add", "aten.add.Tensor", (A, other), A), follows=follows)


def test_chains_of_a_residual_block() -> None:
    assert fused_into(residual_network(), RUNTIME) == {
        "n1": "c1",
        "r1": "c1",
        "n2": "c2",
        "sum": "c2",
        "r2": "c2",
    }


def test_a_layer_with_another_reader_is_not_fused() -> None:
    assert fused_into((conv("c", A, A), relu("r")), RUNTIME) == {}


def test_only_one_activation_fits_into_a_kernel() -> None:
    layers = (conv("c", A, A), relu("r1", "c"), relu("r2", "r1"))
    assert fused_into(layers, RUNTIME) == {"r1": "c"}


def test_an_addition_joins_the_branch_computed_last() -> None:
    layers = (conv("left", A, A), conv("right", A, A), add("sum", "left", "right"))
    assert fused_into(layers, RUNTIME) == {"sum": "right"}


def test_an_addition_tries_the_other_branch() -> None:
    layers = (conv("left", A, A), conv("right", A, A), relu("r", "right"), add("sum", "left", "r"))
    assert fused_into(layers, RUNTIME) == {"r": "right", "sum": "left"}


def test_a_broadcasting_addition_stays_outside() -> None:
    layers = (conv("c", A, A), add("sum", "c", other=operand(1, 64, 1, 1, group="a")))
    assert fused_into(layers, RUNTIME) == {}


def test_a_pool_takes_nothing_in() -> None:
    pool = call("p", "max_pool2d_with_indices", "aten.max_pool2d_with_indices.default", (A,), A)
    assert fused_into((pool, relu("r", "p")), RUNTIME) == {}


def test_a_layer_that_follows_an_unknown_name_is_kept() -> None:
    assert fused_into((relu("r", "outside"),), RUNTIME) == {}
