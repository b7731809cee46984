from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.latency import allowed_widths, group_step
from hwprune.latency.sampling import sample_sizes


@pytest.mark.parametrize(
    ("channels", "step", "expected"),
    [
        (64, 16, (16, 32, 48, 64)),
        (24, 16, (16, 24)),
        (16, 16, (16,)),
        (12, 16, (12,)),
        (1, 1, (1,)),
        (3, 1, (1, 2, 3)),
    ],
)
def test_allowed_widths(channels: int, step: int, expected: tuple[int, ...]) -> None:
    assert allowed_widths(channels, step) == expected


@given(st.integers(1, 2000), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_allowed_widths_are_step_edges_and_the_dense_width(channels: int, step: int) -> None:
    widths = allowed_widths(channels, step)
    assert widths[-1] == channels
    assert all(width % step == 0 for width in widths[:-1])
    assert list(widths) == sorted(set(widths))
    assert all(width >= 1 for width in widths)


@pytest.mark.parametrize(
    ("step", "positions", "expected"), [(16, 1, 16), (16, 0, 16), (16, 64, 1), (16, 24, 2), (16, 5, 16), (1, 7, 1)]
)
def test_heads_go_in_steps_of_their_own(step: int, positions: int, expected: int) -> None:
    assert group_step(step, positions) == expected


def test_a_fixed_axis_has_one_size() -> None:
    assert sample_sizes({3}, {3}, step=16, points=5) == (3,)


def test_ends_then_the_middles_of_gaps() -> None:
    assert sample_sizes({256}, {16}, step=16, points=2) == (16, 256)
    assert sample_sizes({256}, {16}, step=16, points=3) == (16, 128, 256)
    assert sample_sizes({256}, {16}, step=16, points=5) == (16, 64, 128, 192, 256)


def test_no_more_sizes_than_there_are_steps() -> None:
    assert sample_sizes({40}, {16}, step=16, points=5) == (16, 32, 40)


def test_sizes_of_dense_networks_come_before_multiples_of_the_step() -> None:
    assert sample_sizes({24, 144}, {16}, step=16, points=4) == (16, 24, 80, 144)


def test_all_sizes_below_the_step_are_kept() -> None:
    assert sample_sizes({1, 3, 64}, {1, 3, 16}, step=16, points=2) == (1, 3, 16, 64)


def test_the_first_step_edge_is_there_although_something_fixed_is_smaller() -> None:
    assert sample_sizes({3, 64}, {3, 16}, step=16, points=2) == (3, 16, 64)


@given(
    st.sets(st.integers(1, 600), min_size=1, max_size=8),
    st.sampled_from([1, 4, 16]),
    st.integers(2, 9),
    st.booleans(),
)
def test_any_axis(dense: set[int], step: int, points: int, can_shrink: bool) -> None:
    smallest = {min(size, step) for size in dense} if can_shrink else dense
    sizes = sample_sizes(dense, smallest, step=step, points=points)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] == min(smallest)
    assert sizes[-1] == max(dense)
    assert all(size % step == 0 or size in dense for size in sizes)
    assert len(sizes) <= max(points, 3 + sum(size < step for size in dense))
