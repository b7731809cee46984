"""What a visit tells: kernels find their layers, and what the profiler adds is taken off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwprune import device_runner
from hwprune.latency.observation import NETWORK, UNKNOWN, Observation, anchor_speed, observed, shares

from .fakes import residual_network, statistics

LAYERS = residual_network()
COVERS = {
    "conv_1": "stem",
    "conv_2": "c1",
    "relu_1": "r1",
    "conv_3": "c2",
    "add_1": "sum",
    "relu_2": "r2",
    "mean_1": "pool",
    "gemm_1": "fc",
}


def reply(kernels: list[tuple[list[str], float]], *, network: list, anchor: list, null: float = 0.01) -> dict[str, Any]:
    """``kernels``: nodes and milliseconds of each; ``network`` and ``anchor``: milliseconds by round."""
    shown = {NETWORK: network, "anchor": anchor, "null": [null] * len(network)}
    return {
        "id": "network-0",
        "candidates": {
            name: {**statistics([ms for ms in rounds if ms is not None]), "rounds_ms": rounds}
            for name, rounds in shown.items()
        },
        "kernels": {NETWORK: [{"covers": covers, "op": "?", "p50_ms": ms} for covers, ms in kernels]},
        "clock": "perf_counter_ns",
        "contention": {"clean_fraction": 1.0},
    }


def read(*kernels: tuple[list[str], float]) -> Observation:
    return observed(reply(list(kernels), network=[1.0] * 5, anchor=[1.0] * 5), {}, COVERS, LAYERS)


def test_a_fused_kernel_belongs_to_the_layer_with_weights() -> None:
    found = read((["conv_1"], 0.5), (["relu_1", "conv_2"], 0.25), (["add_1", "relu_2", "conv_3"], 0.125))
    assert found.kernel_ms == {"stem": 0.5, "c1": 0.25, "c2": 0.125}
    assert found.kernels == {"stem": 1, "c1": 1, "c2": 1}


def test_without_weights_it_belongs_to_the_first_layer() -> None:
    found = read((["relu_2", "mean_1", "add_1"], 0.25))
    assert found.kernel_ms == {"sum": 0.25}


def test_several_kernels_of_a_layer_add_up() -> None:
    found = read((["mean_1"], 0.25), (["mean_1"], 0.5))
    assert found.kernel_ms == {"pool": 0.75}
    assert found.kernels == {"pool": 2}


def test_a_change_of_layout_belongs_with_the_kernel_whose_output_it_converts() -> None:
    found = read((["conv_3", "add_1", "relu_2"], 0.5), (["relu_2"], 0.25), (["mean_1"], 0.125))
    assert found.kernel_ms == {"c2": 0.75, "pool": 0.125}
    assert found.kernels == {"c2": 2, "pool": 1}


def test_an_operator_with_a_kernel_before_any_other_covers_it_keeps_it() -> None:
    found = read((["relu_1"], 0.25), (["conv_2"], 0.5))
    assert found.kernel_ms == {"r1": 0.25, "c1": 0.5}


def test_kernels_of_unknown_nodes_are_kept_apart() -> None:
    found = read((["conv_1"], 0.5), ([], 0.25), (["memcpy", "barrier"], 0.125), (["memcpy", "gemm_1"], 1.0))
    assert found.kernel_ms == {"stem": 0.5, UNKNOWN: 0.375, "fc": 1.0}


def test_a_runtime_that_tells_nothing_of_its_kernels() -> None:
    silent = {**reply([], network=[1.0] * 5, anchor=[2.0] * 5), "kernels": {}}
    found = observed(silent, {"a": 3}, {}, LAYERS)
    assert (found.kernel_ms, found.kernels, found.widths, found.over_anchor) == ({}, {}, {"a": 3}, 0.5)


def test_rounds_that_something_lengthened_change_nothing() -> None:
    """Whatever disturbs makes a call longer; network and anchor need not be disturbed in the same rounds."""
    slower = np.array([1.0, 1.3, 1.0, 2.0, 1.0, 1.0, 1.4, 1.3, 1.0, 1.2, 1.0, 1.0])
    disturbed = reply([], network=(3 * slower).tolist(), anchor=(2 * slower[::-1]).tolist())
    found = observed(disturbed, {}, COVERS, LAYERS)
    assert found.over_anchor == pytest.approx(1.5)
    assert found.anchor_ms == pytest.approx(2.0)
    assert found.null_ms == 0.01


@pytest.mark.parametrize("which", ["network", "anchor"])
def test_a_network_that_was_disturbed_in_almost_every_round_is_refused(which: str) -> None:
    rounds = {"network": [1.0] * 7, "anchor": [1.0] * 7, which: [1.0, 1.0, None, None, 1.0, None, 1.0]}
    with pytest.raises(device_runner.MeasurementRefused, match="undisturbed in only 4 rounds"):
        observed(reply([], **rounds), {}, COVERS, LAYERS)


NULL_MS, ANCHOR_MS = 0.02, 1.0
NAMES = tuple(f"layer {index}" for index in range(12))


def made_up(
    networks: int = 40, *, bias: float = 0.004, stretch: float = 1.08, unknown: float = 0.0, noise: float = 0.0
) -> tuple[list[Observation], np.ndarray]:
    """Observations of a device whose speed drifts and whose profiler adds to every kernel, and what was true.

    The truth is in milliseconds per layer, at the speed of the device that all are brought to.
    """
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.005, 0.4, size=(networks, len(NAMES)))
    kernels = np.array([1, 1, 1, 2, 1, 1, 4, 1, 1, 1, 3, 1])
    speeds = np.exp(rng.uniform(-0.4, 0.6, networks))
    speeds /= anchor_speed([Observation({}, 1.0, speed, NULL_MS, {}, {}) for speed in speeds])
    found = []
    for took, speed in zip(truth, speeds, strict=True):
        seen = speed * (took * stretch + bias * kernels) * (1 + noise * rng.standard_normal(len(NAMES)))
        missing = took.sum() * unknown / (1 - unknown)
        lost = {UNKNOWN: speed * (missing * stretch + bias)} if unknown else {}
        found.append(
            Observation(
                widths={},
                over_anchor=(took.sum() / (1 - unknown) + NULL_MS) / ANCHOR_MS,
                anchor_ms=ANCHOR_MS * speed,
                null_ms=NULL_MS,
                kernel_ms={**dict(zip(NAMES, seen.tolist(), strict=True)), **lost},
                kernels={**dict(zip(NAMES, kernels.tolist(), strict=True)), **dict.fromkeys(lost, 1)},
            )
        )
    return found, truth


def test_bias_stretch_and_drift_are_taken_off() -> None:
    observations, truth = made_up()
    found = shares(observations)
    assert found.layers == NAMES
    np.testing.assert_allclose(found.latency_ms, truth, rtol=2e-3)
    assert found.kernel_bias_ms == pytest.approx(0.004 / 1.08, rel=1e-2)
    assert found.kernel_scale == pytest.approx(1 / 1.08, rel=1e-3)
    assert found.overhead_ms == NULL_MS
    assert found.unattributed == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("settings", [{}, {"bias": 0.0}, {"bias": 0.02, "noise": 0.1}, {"unknown": 0.1}])
def test_layers_add_up_to_their_network_end_to_end(settings: dict[str, float]) -> None:
    found = shares(made_up(**settings)[0])
    observations, _ = made_up(**settings)
    expected = [one.over_anchor * ANCHOR_MS - NULL_MS for one in observations]
    np.testing.assert_allclose(found.total_ms, expected, rtol=1e-9)
    np.testing.assert_allclose(found.latency_ms.sum(axis=1), found.total_ms, rtol=1e-9)
    assert (found.latency_ms > 0).all()


def test_small_kernels_are_not_drowned_by_the_bias() -> None:
    """A kernel of 5 µs behind a bias of 10 µs, and noise."""
    observations, truth = made_up(bias=0.01, noise=0.02)
    found = shares(observations)
    small = truth < 0.03
    assert small.sum() > 20
    assert np.median(np.abs(found.latency_ms / truth - 1)[small]) < 0.05
    assert np.median(np.abs(found.latency_ms / truth - 1)[~small]) < 0.02


def test_what_belongs_to_no_layer_is_reported_and_spread() -> None:
    observations, truth = made_up(unknown=0.2)
    found = shares(observations)
    assert UNKNOWN not in found.layers
    assert found.unattributed == pytest.approx(0.2, rel=0.02)
    np.testing.assert_allclose(found.latency_ms, truth / 0.8, rtol=0.02)


def test_networks_disturbed_under_the_profiler_do_not_move_the_others() -> None:
    observations, truth = made_up()
    for index in (3, 17, 30):
        one = observations[index]
        worse = {name: 2.5 * ms for name, ms in one.kernel_ms.items()}
        observations[index] = Observation(**{**vars(one), "kernel_ms": worse})
    found = shares(observations)
    good = [index for index in range(len(truth)) if index not in (3, 17, 30)]
    off = np.abs(found.latency_ms[good] / truth[good] - 1)
    assert np.median(off) < 0.02
    assert np.quantile(off[truth[good] > 0.05], 0.9) < 0.05
    assert found.kernel_bias_ms < 0.01


def test_a_layer_that_has_a_kernel_in_some_networks_only() -> None:
    """At some widths a layer needs no change of layout, say, or is fused."""
    observations, truth = made_up()
    for one in observations[::2]:
        del one.kernel_ms["layer 0"], one.kernels["layer 0"]
    found = shares(observations)
    assert found.layers[-1] == "layer 0"  # the order is that in which they were seen
    assert (found.latency_ms > 0).all()
    np.testing.assert_allclose(found.latency_ms[1::2, -1], truth[1::2, 0], rtol=0.2)


def test_one_network_is_enough() -> None:
    observations, truth = made_up(1)
    found = shares(observations)
    np.testing.assert_allclose(found.latency_ms, truth, rtol=0.5)  # the bias cannot be known
    assert found.latency_ms.sum() == pytest.approx(truth.sum())
    assert found.kernel_bias_ms < 0.004


def test_without_kernels_there_is_the_whole_network() -> None:
    observations, truth = made_up()
    silent = [Observation(**{**vars(one), "kernel_ms": {}, "kernels": {}}) for one in observations]
    found = shares(silent)
    assert found.layers == ()
    assert found.latency_ms.shape == (len(truth), 0)
    np.testing.assert_allclose(found.total_ms, truth.sum(axis=1), rtol=1e-9)
