"""Exact counts, ties to the first, against sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.regrow.ranking import random_k, top_k, top_k_of_all, top_k_per_row

FEW_VALUES = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.booleans()), min_size=1, max_size=24)


def chosen(scores: list[float], among: list[bool], count: int) -> list[bool]:
    order = sorted((i for i, may in enumerate(among) if may), key=lambda i: (-scores[i], i))[:count]
    return [i in order for i in range(len(scores))]


@given(FEW_VALUES, st.data())
@settings(max_examples=300, deadline=None)
def test_top_k_is_a_stable_sort(elements: list[tuple[float, bool]], data: st.DataObject) -> None:
    scores, among = [score for score, _ in elements], [may for _, may in elements]
    count = data.draw(st.integers(0, sum(among)))
    expected = chosen(scores, among, count)
    tensor, mask = torch.tensor(scores), torch.tensor(among)
    assert top_k(tensor, count, mask).tolist() == expected
    assert top_k(tensor.double(), count, mask).tolist() == expected
    parts = {"a": slice(None, len(scores) // 2), "b": slice(len(scores) // 2, None)}
    found = top_k_of_all({k: tensor[s] for k, s in parts.items()}, count, {k: mask[s] for k, s in parts.items()})
    assert found["a"].tolist() + found["b"].tolist() == expected


@given(st.lists(FEW_VALUES.filter(lambda row: len(row) >= 6), min_size=1, max_size=5), st.data())
@settings(max_examples=100, deadline=None)
def test_per_row_is_top_k_of_every_row(rows: list[list[tuple[float, bool]]], data: st.DataObject) -> None:
    scores, among = [[s for s, _ in row[:6]] for row in rows], [[may for _, may in row[:6]] for row in rows]
    counts = [data.draw(st.integers(0, sum(row))) for row in among]
    found = top_k_per_row(torch.tensor(scores), torch.tensor(counts), torch.tensor(among))
    assert found.tolist() == [chosen(*row) for row in zip(scores, among, counts, strict=True)]


def test_random_is_exact_and_depends_on_the_key_alone() -> None:
    among = torch.arange(600).view(20, 30) % 3 == 0
    torch.manual_seed(1)
    one = random_k(among, 50, "a")
    torch.manual_seed(2)
    assert torch.equal(one, random_k(among, 50, "a"))
    assert not torch.equal(one, random_k(among, 50, "b"))
    assert int(one.sum()) == 50
    assert not (one & ~among).any()
    torch.manual_seed(3)
    after = torch.rand(1)
    torch.manual_seed(3)
    random_k(among, 50, "a")
    assert torch.equal(after, torch.rand(1))  # the user's own stream is untouched


def test_every_element_is_drawn_equally_often() -> None:
    among = torch.ones(20, dtype=torch.bool)
    drawn = sum(random_k(among, 5, str(i)).long() for i in range(2000))
    assert drawn.sum() == 10_000
    # 500 expected with a standard deviation of 19
    assert drawn.min() > 400
    assert drawn.max() < 600


@pytest.mark.parametrize("count", [0, 7])
def test_none_and_all(count: int) -> None:
    assert int(top_k(torch.zeros(7), count).sum()) == count
