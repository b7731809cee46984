from __future__ import annotations

import dataclasses

from hwprune.latency import FusionRules, fused_into
from hwprune.latency.fusion import Question, fused_chains, observe
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


def silu(name: str, *follows: str):
    return dataclasses.replace(call(name, "silu", "aten.silu.default", (A,), A), follows=follows)


def test_what_was_seen_without_a_kernel_of_its_own_is_fused_whatever_the_runtime_is_known_for() -> None:
    layers = (conv("c1", A, A), silu("s1", "c1"), conv("c2", A, A), relu("r2", "c2"))
    seen = observe(layers, {"c1", "c2", "r2"})
    assert seen == {Question("silu", "conv", 4): True, Question("relu", "conv", 4): False}
    assert fused_into(layers, FusionRules(RUNTIME, seen)) == {"s1": "c1"}
    assert fused_into(layers, RUNTIME) == {"r2": "c2"}


def test_chains_are_observed_operator_by_operator() -> None:
    layers = residual_network()
    kernels = {"stem", "c1", "r1", "c2", "r2", "pool", "fc"}  # r1 and r2 have their own
    seen = observe(layers, kernels)
    assert seen == {
        Question("batch_norm", "conv", 4): True,
        Question("relu", "conv", 4, ("batch_norm",)): False,
        Question("add", "conv", 4, ("batch_norm",)): True,
        Question("relu", "conv", 4, ("batch_norm", "add")): False,
    }
    assert fused_into(layers, FusionRules(RUNTIME, seen)) == {"n1": "c1", "n2": "c2", "sum": "c2"}


def test_what_was_seen_both_ways_is_not_fused() -> None:
    layers = (conv("c1", A, A), relu("r1", "c1"), conv("c2", A, A), relu("r2", "c2"))
    assert observe(layers, {"c1", "c2", "r2"}) == {Question("relu", "conv", 4): False}


def test_an_addition_that_broadcasts_is_another_question() -> None:
    gate = operand(1, 64, 1, 1, group="a")
    layers = (conv("c1", A, A), add("one", "c1"), conv("c2", A, A), add("other", "c2", other=gate))
    seen = observe(layers, {"c1", "c2", "other"})
    assert seen == {Question("add", "conv", 4): True, Question("add/broadcast", "conv", 4): False}
    assert fused_into(layers, FusionRules(RUNTIME, seen)) == {"one": "c1"}


def test_observed_rules_hold_for_other_networks() -> None:
    seen = observe((conv("c", A, A), silu("s", "c")), {"c"})
    other = (conv("x", A, A), silu("y", "x"), relu("z", "y"))
    assert fused_into(other, FusionRules(RUNTIME, seen)) == {"y": "x"}


def test_the_runtime_answers_what_was_not_asked() -> None:
    rules = FusionRules(RUNTIME, {Question("relu", "conv", 4): False})
    assert not rules(Question("relu", "conv", 4))
    assert rules(Question("relu", "conv", 4, ("batch_norm",)))
    assert not rules(Question("add/broadcast", "conv", 4))
    assert not rules(Question("relu", "max_pool2d_with_indices", 4))


def test_chains_name_what_a_kernel_does_besides_itself_but_for_batch_norm() -> None:
    assert fused_chains(residual_network(), FusionRules(RUNTIME)) == {
        "c1": ("relu",),
        "c2": ("add", "relu"),
    }


def test_answers_are_written_in_a_fixed_order() -> None:
    seen = observe(residual_network(), {"stem", "c1", "c2", "pool", "fc"})
    backwards = dict(reversed(seen.items()))
    assert FusionRules(RUNTIME, seen).to_list() == FusionRules(RUNTIME, backwards).to_list()
    assert FusionRules(RUNTIME, seen).to_list()[0] == {
        "op": "batch_norm", "into": "conv", "rank": 4, "chain": [], "fuses": True,
    }  # fmt: skip
