"""Layers of a runtime that tells whole networks only: where latency is linear in the features, it is taken apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwprune.latency import Layer
from hwprune.latency.whole_network import estimated

from .fakes import call, conv, linear, operand

# Each kind with channel groups of its own: what grows together cannot be told apart by anybody.
IMAGE = operand(1, 3, 16, 16)
A, B, C = (operand(1, 64, 16, 16, group=name) for name in "abc")
D, E, F = (operand(1, 48, 8, 8, group=name) for name in "def")
FLAT, LOGITS = operand(1, 256, group="g"), operand(1, 100, group="h")
MACS = {"wide": 1e-7, "narrow": 3e-8, "each": 4e-7, "full": 2e-7}
MOVED = {"wide": 1e-6, "active": 4e-6}


def with_macs(layer: Layer) -> Layer:
    kernel = math.prod(layer.attributes.get("kernel", []))
    incoming = 1 if layer.cut_per_group else layer.inputs[0].shape[1]
    macs = kernel * incoming * math.prod(layer.output.shape)
    return Layer(**{**vars(layer), "macs": macs, "parameters": kernel * incoming * layer.output.shape[1]})


LAYERS = (
    with_macs(conv("wide", IMAGE, A)),
    with_macs(conv("wide 2", A, B)),
    with_macs(conv("narrow", D, E, kernel=1)),
    with_macs(conv("each", C, C, groups=64)),
    call("active", "relu", "aten.relu.default", (F,), F),
    with_macs(linear("full", FLAT, LOGITS)),
)
DENSE = {"a": 64, "b": 64, "c": 64, "d": 48, "e": 48, "f": 48, "g": 256, "h": 100}


def drawn(count: int, seed: int = 0) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    return [{name: int(rng.integers(1, width + 1)) for name, width in DENSE.items()} for _ in range(count)]


def truth(widths: list[dict[str, int]]) -> np.ndarray:
    def ms(layer: Layer, one: dict[str, int]) -> float:
        kind = layer.name.partition(" ")[0]
        moved = sum(math.prod(operand.at(one)) for operand in (*layer.inputs, layer.output))
        return 0.002 + MACS.get(kind, 0) * layer.macs_at(one) + MOVED.get(kind, 0) * moved

    return np.array([[ms(layer, one) for layer in LAYERS] for one in widths])


def test_a_linear_truth_is_recovered_layer_by_layer() -> None:
    widths = drawn(80)
    expected = truth(widths)
    found = estimated(LAYERS, widths, expected.sum(axis=1))
    off = np.abs(found / expected - 1)
    matters = expected > 0.05 * expected.sum(axis=1, keepdims=True)
    assert np.median(off[matters]) < 0.02
    assert np.quantile(off[matters], 0.9) < 0.06


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parts_are_above_zero_and_add_up_whatever_was_measured(count: int) -> None:
    widths = drawn(count)
    total = np.random.default_rng(1).uniform(0.1, 5.0, count)  # nothing to do with the layers
    found = estimated(LAYERS, widths, total)
    assert found.shape == (count, len(LAYERS))
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), total, rtol=1e-9)


def test_noise_of_two_percent_moves_parts_that_matter_little() -> None:
    widths = drawn(80)
    expected = truth(widths)
    noisy = expected.sum(axis=1) * (1 + 0.02 * np.random.default_rng(2).standard_normal(80))
    found = estimated(LAYERS, widths, noisy)
    matters = expected > 0.2 * expected.sum(axis=1, keepdims=True)
    assert np.median(np.abs(found / expected - 1)[matters]) < 0.05
