"""Ranking, chunks and the schedule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.budget import Choices, geometric, kept_channels, rank


def test_saliency_kept_at_each_width():
    assert rank([0.5, 4.0, 1.0, 2.0], (1, 3, 4)) == Choices(widths=(1, 3, 4), saliency=(4.0, 7.0, 7.5))


def test_ties_keep_the_lower_index():
    assert kept_channels([1.0, 2.0, 1.0, 1.0], 2) == [0, 1]
    assert kept_channels(np.ones(40), 7) == list(range(7))
    assert kept_channels([3.0, 1.0], 0) == []


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.data())
def test_rank_is_worth_exactly_what_kept_channels_keeps(saliency, data):
    width = data.draw(st.integers(1, len(saliency)))
    kept = kept_channels(saliency, width)
    assert len(set(kept)) == width
    assert kept == sorted(kept)
    assert rank(saliency, (width,)).saliency[0] == pytest.approx(sum(saliency[i] for i in kept))
    dropped = [s for i, s in enumerate(saliency) if i not in kept]
    assert not dropped or max(dropped) <= min(saliency[i] for i in kept)


def test_rank_refuses_what_it_cannot_rank():
    with pytest.raises(ValueError, match="NaN"):
        rank([1.0, float("nan")], (1, 2))
    with pytest.raises(ValueError, match="width 3"):
        rank([1.0, 2.0], (1, 3))


def test_geometric_schedule():
    assert geometric(100.0, 25.0, 2) == pytest.approx([50.0, 25.0])
    targets = geometric(304.7, 91.4, 30)
    assert len(targets) == 30
    assert targets[-1] == 91.4
    factors = np.array(targets) / np.array([304.7, *targets[:-1]])
    assert factors == pytest.approx(np.full(30, (91.4 / 304.7) ** (1 / 30)))


@pytest.mark.parametrize("bad", [(0.0, 1.0, 3), (1.0, 0.0, 3), (1.0, 1.0, 0)])
def test_geometric_schedule_refuses(bad):
    with pytest.raises(ValueError, match="positive"):
        geometric(*bad)
