"""Functions of channel counts from scattered, noisy measurements: what was true must come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hwprune.latency.fitting import FOLDS, KNOTS, LEAST_MS, Fit, fit

Truth = Callable[..., NDArray[np.float64]]
STEP, TOP = 16, 256
NETWORKS = 48


def bilinear(incoming, outgoing):
    return 0.01 + 2e-5 * incoming + 1e-5 * outgoing + 3e-6 * incoming * outgoing


def kinked(incoming, outgoing):
    """Beyond so many weights they no longer fit into a cache."""
    return bilinear(incoming, outgoing) * np.where(incoming > 128, 1 + (incoming - 128) / 128 * 0.5, 1.0)


def straight(channels):
    return 0.02 + 1e-3 * channels


def bent(channels):
    """Four times as steep from 96 on."""
    return 0.02 + 1e-3 * np.minimum(channels, 96) + 4e-3 * np.maximum(channels - 96, 0)


def measured(
    truth: Truth, axes: int, *, noise: float = 0.03, layers: int = 1, outliers: int = 0, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Sizes, latencies and networks of scattered measurements; ``layers`` of each network share the entry."""
    rng = np.random.default_rng(seed)
    sizes = STEP * rng.integers(1, TOP // STEP + 1, size=(NETWORKS * layers, axes))
    latency = truth(*sizes.T) * (1 + noise * rng.standard_normal(len(sizes)))
    latency[rng.choice(len(latency), outliers, replace=False)] *= 4
    return sizes, latency, np.tile(np.arange(NETWORKS), layers)


def at(found: Fit, *sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The fitted function, read as a table is read: linearly between knots."""
    total = np.zeros(len(sizes[0]))
    for place in np.ndindex(*found.values.shape):
        share = np.ones(len(sizes[0]))
        for axis, index in enumerate(place):
            share = share * np.interp(sizes[axis], found.knots[axis], np.eye(len(found.knots[axis]))[index])
        total += found.values[place] * share
    return total


def errors(found: Fit, truth: Truth, axes: int) -> NDArray[np.float64]:
    """Relative errors at all step edges."""
    edges = np.arange(STEP, TOP + 1, STEP)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*[edges] * axes, indexing="ij")])
    expected = truth(*grid)
    return np.abs(at(found, *grid) / expected - 1)


ENDS = (STEP, TOP)


@pytest.mark.parametrize(("truth", "axes"), [(bilinear, 2), (straight, 1)])
def test_exact_measurements_of_a_bilinear_function_are_reproduced_everywhere(truth: Truth, axes: int) -> None:
    found = fit(*measured(truth, axes, noise=0), [ENDS] * axes)
    assert errors(found, truth, axes).max() < 1e-4
    assert found.spread < 1e-4


@pytest.mark.parametrize(
    ("truth", "axes", "median", "worst"), [(bilinear, 2, 0.01, 0.05), (straight, 1, 0.01, 0.03), (bent, 1, 0.02, 0.15)]
)
@pytest.mark.parametrize("seed", range(4))
def test_noise_and_outliers_are_averaged_out(truth: Truth, axes: int, median: float, worst: float, seed: int) -> None:
    found = fit(*measured(truth, axes, layers=3, outliers=6, seed=seed), [ENDS] * axes)
    off = errors(found, truth, axes)
    assert np.median(off) < median
    assert off.max() < worst


def test_a_kink_over_two_axes_is_followed() -> None:
    found = fit(*measured(kinked, 2, layers=4), [ENDS] * 2)
    stiff = fit(*measured(bilinear, 2, layers=4), [ENDS] * 2)
    assert np.median(errors(found, kinked, 2)) < 0.02
    assert np.quantile(errors(found, kinked, 2), 0.9) < 0.06
    assert np.quantile(errors(stiff, kinked, 2), 0.9) > 0.2  # it is far from being bilinear


def bending(found: Fit) -> float:
    """The largest second difference along the only axis, as a part of the largest value."""
    knots, values = np.array(found.knots[0], dtype=float), found.values
    slopes = np.diff(values) / np.diff(knots)
    return float(np.abs(np.diff(slopes)).max() * (knots[-1] - knots[0]) / values.max()) if len(slopes) > 1 else 0.0


def test_it_bends_only_as_far_as_measurements_left_out_confirm() -> None:
    sizes, latency, source = measured(straight, 1, noise=0.1, layers=2)
    assert bending(fit(sizes, latency, source, [ENDS])) < 0.02
    sizes, latency, source = measured(bent, 1, noise=0.1, layers=2)
    assert bending(fit(sizes, latency, source, [ENDS])) > 0.15
    # All from too few networks to leave any out: no bending is believed.
    assert bending(fit(sizes, latency, source % (2 * FOLDS - 1), [ENDS])) < 0.02


def test_measurements_of_one_network_are_left_out_together() -> None:
    """Layers of one network share its mistakes: a curve through these must not look confirmed by its other layers."""
    together, apart = [], []
    for seed in range(8):
        sizes, latency, source = measured(straight, 1, noise=0, seed=seed)
        wrong = 1 + 0.15 * np.random.default_rng(seed).standard_normal(NETWORKS)
        sizes, latency, source = np.repeat(sizes, 6, axis=0), np.repeat(latency * wrong, 6), np.repeat(source, 6)
        together.append(bending(fit(sizes, latency, source, [ENDS])))
        apart.append(bending(fit(sizes, latency, np.arange(len(source)), [ENDS])))
    assert np.mean(together) < np.mean(apart) / 2


def test_knots_are_the_ends_and_counts_that_were_measured() -> None:
    sizes, latency, source = measured(bilinear, 2)
    found = fit(sizes, latency, source, [(1, 300), (STEP, TOP)])
    for axis, (low, high) in enumerate([(1, 300), (STEP, TOP)]):
        assert (found.knots[axis][0], found.knots[axis][-1]) == (low, high)
        assert set(found.knots[axis][1:-1]) <= set(sizes[:, axis].tolist())
        assert len(found.knots[axis]) == KNOTS[2]
        assert list(found.knots[axis]) == sorted(set(found.knots[axis]))


def test_two_layers_of_one_kind_that_never_are_wide_at_both_ends() -> None:
    """Squeeze and excitation: one goes from wide to narrow, the other back. Nothing is known of wide to wide."""
    wide = np.arange(STEP, TOP + 1, STEP)
    narrow = np.full(len(wide), STEP)
    sizes = np.concatenate([np.stack([wide, narrow], axis=1), np.stack([narrow, wide], axis=1)])
    latency = bilinear(*sizes.T)
    noisy = latency * (1 + 0.02 * np.random.default_rng(0).standard_normal(len(sizes)))
    found = fit(sizes, noisy, np.tile(np.arange(len(wide)), 2), [ENDS] * 2)
    np.testing.assert_allclose(at(found, *sizes.T), latency, rtol=0.06)
    corner = float(at(found, np.array([TOP]), np.array([TOP]))[0])
    assert 0.3 < corner / float(bilinear(TOP, TOP)) < 3  # as if in proportion to the channels: it must not be free


def test_what_grows_from_next_to_nothing_is_not_lifted_by_what_may_not_be_negative() -> None:
    """A line through the upper counts would be below zero at the least; the counts between must not suffer."""
    sizes = np.repeat(STEP * np.arange(1, 17), 4)[:, None]
    latency = 1e-3 + 5e-6 * np.maximum(sizes[:, 0] - 48.0, 0) ** 2
    found = fit(sizes, latency, np.arange(len(sizes)), [(1, TOP)])
    assert (found.values >= LEAST_MS).all()
    np.testing.assert_allclose(at(found, sizes[:, 0]), latency, rtol=0.1)


def test_an_axis_that_never_changes_has_one_knot() -> None:
    sizes, latency, source = measured(straight, 1, noise=0)
    with_image = np.stack([np.full(len(sizes), 3), sizes[:, 0]], axis=1)
    found = fit(with_image, latency, source, [(3, 3), ENDS])
    assert found.knots[0] == (3,)
    assert found.values.shape == (1, len(found.knots[1]))
    np.testing.assert_allclose(found.values[0], straight(np.array(found.knots[1])), rtol=1e-3)


def test_nothing_is_free() -> None:
    """A line through small counts meets zero before they end; kernels may also seem to take nothing."""
    sizes, _, source = measured(straight, 1)
    falling = np.maximum(LEAST_MS / 10, 1e-3 * (sizes[:, 0] - 128.0))
    for latency in (falling, np.zeros(len(sizes))):
        found = fit(sizes, latency, source, [ENDS])
        assert found.values.min() >= LEAST_MS
        assert np.isfinite(found.values).all()


def test_a_layer_without_channels_has_one_value() -> None:
    latency = np.array([1.0, 1.1, 0.9, 1.0, 40.0])
    found = fit(np.zeros((5, 0), dtype=np.int64), latency, np.arange(5), [])
    assert found.knots == ()
    assert found.values.shape == found.support.shape == ()
    assert found.values == 1.0
    assert found.support == 5
    assert found.spread == pytest.approx(0.1)


def test_support_counts_the_measurements_that_a_value_rests_on() -> None:
    sizes = np.array([[16]] * 3 + [[32]] * 5 + [[64]] * 2)
    found = fit(sizes, straight(sizes[:, 0]), np.arange(10), [(16, 128)])
    assert found.knots == ((16, 64, 128),)
    assert found.support.tolist() == [8, 7, 1]  # 32 lies between two; nothing was measured at 128, or beside it
    between = fit(np.array([[16], [24], [24], [32]]), np.ones(4), np.arange(4), [(16, 32)])
    assert between.knots == ((16, 24, 32),)
    assert between.support.tolist() == [1, 2, 1]


def test_spread_is_that_of_measured_around_fitted() -> None:
    quiet, loud = (fit(*measured(straight, 1, noise=noise, layers=8), [ENDS]).spread for noise in (0.01, 0.08))
    assert quiet == pytest.approx(1.349 * 0.01, rel=0.2)  # quartiles of a normal distribution
    assert loud == pytest.approx(1.349 * 0.08, rel=0.2)


def test_one_measurement_is_enough_for_a_constant() -> None:
    """A network in which nothing can be cut."""
    found = fit(np.array([[64, 10]]), np.array([0.5]), np.array([0]), [(64, 64), (10, 10)])
    assert found.knots == ((64,), (10,))
    np.testing.assert_allclose(found.values, [[0.5]], rtol=1e-6)
