"""From the sum of a network's layers to the network."""

from __future__ import annotations

import numpy as np
import pytest

from hwprune.latency.curve import BENT, FEWEST, FURTHEST, Curve, fitted_curve


def made_up(curve: Curve, *, noise: float = 0.01, outliers: int = 0, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    sums = np.exp(rng.uniform(-1.5, 1.5, count))
    totals = np.array([curve.total(one) for one in sums]) * (1 + noise * rng.standard_normal(count))
    totals[:outliers] *= 1.8
    return sums, totals


def test_without_anything_known_a_network_is_the_sum_of_its_layers() -> None:
    for sum_ms in (1e-3, 1.0, 1e4):
        assert Curve().total(sum_ms) == pytest.approx(sum_ms)


@pytest.mark.parametrize("true", [Curve(1.0, 1.0, 1.0), Curve(1.06, 0.97, 2.0), Curve(0.95, 1.1, 0.5)])
@pytest.mark.parametrize("outliers", [0, 6])
def test_what_was_true_comes_out(true: Curve, outliers: int) -> None:
    found = fitted_curve(*made_up(true, outliers=outliers))
    assert found.exponent == pytest.approx(true.exponent, abs=0.01)
    for sum_ms in (0.3, 1.0, 4.0):
        assert found.total(sum_ms) == pytest.approx(true.total(sum_ms), rel=0.015)


def test_too_few_networks_bend_nothing() -> None:
    sums, totals = made_up(Curve(1.2), count=FEWEST - 1)
    assert fitted_curve(sums, totals) == Curve()


def test_it_bends_only_so_far() -> None:
    rng = np.random.default_rng(1)
    found = fitted_curve(np.exp(rng.uniform(-1, 1, 40)), np.full(40, 3.0))  # whatever the sum, 3 ms
    assert found.exponent == pytest.approx(1 - BENT, abs=1e-3)


def test_far_beyond_what_was_seen_it_goes_on_in_proportion() -> None:
    curve = Curve(1.1, 1.0, 2.0)
    edge = 2.0 * FURTHEST
    assert curve.total(10 * edge) == pytest.approx(10 * curve.total(edge))
    assert curve.total(0.1 * 2.0 / FURTHEST) == pytest.approx(0.1 * curve.total(2.0 / FURTHEST))


def test_more_layers_never_make_a_network_faster() -> None:
    curve = Curve(1 - BENT, 1.0, 1.0)
    totals = [curve.total(sum_ms) for sum_ms in np.geomspace(1e-4, 1e4, 500)]
    assert (np.diff(totals) > 0).all()
