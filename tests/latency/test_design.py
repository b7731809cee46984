"""Widths at which networks are measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwprune.latency import allowed_widths
from hwprune.latency.design import designed_widths

CHANNELS = {"stem": 64, "body": 100, "neck": 256, "odd": 24, "small": 5}


def shares(designed: list[dict[str, int]]) -> np.ndarray:
    """How wide each group of each network is, as a part of the dense one."""
    return np.array([[one[group] / count for group, count in CHANNELS.items()] for one in designed])


def test_groups_of_heads_take_steps_of_their_own() -> None:
    designed = designed_widths({"heads": 3, "channels": 64}, 16, 32, 0, {"heads": 64})
    assert {widths["heads"] for widths in designed} == {1, 2, 3}
    assert {widths["channels"] for widths in designed} == {16, 32, 48, 64}


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 300), max_size=5),
    st.sampled_from([1, 4, 8, 16, 32]),
    st.integers(1, 20),
    st.integers(0, 2**31),
)
def test_only_allowed_widths_for_every_group(channels: dict[str, int], step: int, count: int, seed: int) -> None:
    designed = designed_widths(channels, step, count, seed)
    assert len(designed) == count
    for widths in designed:
        assert list(widths) == list(channels)
        assert all(width in allowed_widths(channels[group], step) for group, width in widths.items())


def test_every_group_is_seen_over_its_whole_range() -> None:
    designed = designed_widths(CHANNELS, 8, 32, 3)
    for group, count in CHANNELS.items():
        allowed = allowed_widths(count, 8)
        seen = {widths[group] for widths in designed}
        assert {allowed[0], allowed[-1]} <= seen
        assert len(seen) >= min(len(allowed), 16) * 0.75


def test_in_every_other_network_groups_are_independent_and_in_the_others_they_go_together() -> None:
    found = shares(designed_widths(CHANNELS, 1, 400, 0))
    apart, together = (np.corrcoef(found[start::2, :4].T)[np.triu_indices(4, 1)] for start in (0, 1))
    assert np.abs(apart).max() < 0.25
    assert together.min() > 0.7


def test_whole_networks_are_narrow_and_wide_not_only_half_as_wide() -> None:
    middle = shares(designed_widths(CHANNELS, 8, 64, 1))[:, :3].mean(axis=1)
    assert middle.min() < 0.25
    assert middle.max() > 0.85


def test_the_same_seed_gives_the_same_networks_and_another_gives_others() -> None:
    assert designed_widths(CHANNELS, 8, 8, 7) == designed_widths(CHANNELS, 8, 8, 7)
    assert designed_widths(CHANNELS, 8, 8, 7) != designed_widths(CHANNELS, 8, 8, 8)


def test_without_groups_there_is_one_network() -> None:
    assert designed_widths({}, 8, 3, 0) == [{}, {}, {}]
