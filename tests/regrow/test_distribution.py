"""ERK against its definition and the values of real networks; counts that add up."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.errors import InputError
from hwprune.regrow import layer_counts, layer_densities

Shapes = dict[str, tuple[int, ...]]


def resnet20() -> Shapes:
    shapes: Shapes = {"conv1": (16, 3, 3, 3)}
    width = 16
    for stage, wide in enumerate((16, 32, 64), start=1):
        for block in range(3):
            shapes[f"{stage}.{block}.conv1"] = (wide, width, 3, 3)
            shapes[f"{stage}.{block}.conv2"] = (wide, wide, 3, 3)
            width = wide
    return {**shapes, "fc": (10, 64)}


def vgg19() -> Shapes:
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    convolutions = {f"conv{i}": (widths[i], widths[i - 1], 3, 3) for i in range(1, 17)}
    return {**convolutions, "fc": (10, 512)}


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.1, {"conv1": 1.0, "fc": 1.0, "1.0.conv1": 0.303, "2.1.conv1": 0.139, "3.1.conv1": 0.067}),
        (0.05, {"conv1": 0.517, "fc": 1.0, "1.0.conv1": 0.147, "2.1.conv1": 0.068, "3.1.conv1": 0.033}),
        (0.02, {"conv1": 0.207, "fc": 0.413, "1.0.conv1": 0.059, "2.1.conv1": 0.027, "3.1.conv1": 0.013}),
    ],
)
def test_erk_of_resnet_20(density: float, expected: dict[str, float]) -> None:
    found = layer_densities("erk", resnet20(), density)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=5e-4)


def test_erk_of_vgg_19() -> None:
    found = list(layer_densities("erk", vgg19(), 0.05).values())
    middle = [0.344, 0.254, 0.168, 0.125, *[0.083] * 3, 0.062, *[0.041] * 7]
    assert found == pytest.approx([1.0, *middle, 1.0], abs=6e-4)


SHAPE = st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple)


@given(st.lists(SHAPE, min_size=1, max_size=8), st.floats(0.001, 1.0))
@settings(max_examples=200, deadline=None)
def test_erk_is_proportional_where_it_is_not_dense_and_counts_add_up(shapes: list[tuple[int, ...]], d: float) -> None:
    named = {str(i): shape for i, shape in enumerate(shapes)}
    densities = layer_densities("erk", named, d)
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    total = sum(sizes.values())
    assert sum(densities[name] * sizes[name] for name in named) == pytest.approx(d * total, rel=1e-9)
    scales = {name: densities[name] * sizes[name] / sum(named[name]) for name in named if densities[name] < 1}
    assert max(scales.values(), default=0) == pytest.approx(min(scales.values(), default=0))
    for name in named.keys() - scales.keys():  # dense: its share would be at least all of it
        assert max(scales.values(), default=math.inf) * sum(named[name]) / sizes[name] >= 1 - 1e-9
    for kind in ("erk", "uniform"):
        counts = layer_counts(kind, named, d)
        assert sum(counts.values()) == math.floor(Fraction(d) * total + Fraction(1, 10**6))
        wanted = layer_densities(kind, named, d)
        assert all(abs(counts[name] - wanted[name] * sizes[name]) <= 1 for name in named)


def test_rounding_loses_no_weight() -> None:
    assert layer_counts("uniform", {"a": (10, 100), "b": (3, 5)}, 0.1) == {"a": 100, "b": 1}
    assert layer_counts("uniform", {"a": (1, 5), "b": (1, 5)}, 0.5) == {"a": 3, "b": 2}
    assert layer_counts("erk", {"a": (4, 4)}, 1.0) == {"a": 16}


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(InputError, match="'lamp' is unknown") as caught:
        layer_densities("lamp", {"a": (4, 4)}, 0.5)
    assert caught.value.hint == "known: uniform, erk"
