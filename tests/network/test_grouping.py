"""Classes of ties against a plain union-find; names; sizes as functions of widths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwprune.network.grouping import components, group_channels
from hwprune.network.labels import Labels


@given(st.integers(1, 30), st.data())
def test_components_are_those_of_a_union_find(size, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=40))
    parent = list(range(size))

    def find(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in pairs:
        parent[max(find(a), find(b))] = min(find(a), find(b))
    ties = [(np.array([a]), np.array([b])) for a, b in pairs]
    assert components(size, ties).tolist() == [find(i) for i in range(size)]


def test_a_long_chain_is_one_class():
    ids = np.arange(100_000)
    np.random.default_rng(0).shuffle(ids)
    assert not components(ids.size, [(ids[:-1], ids[1:])]).any()


def example():
    """Two layers: b reads a's channels, the first two of them twice; c's are pinned."""
    labels = Labels()
    a, b = labels.block("a.weight", 0, 5), labels.block("b.weight", 1, 7)
    c = labels.block("c.weight", 0, 3)
    labels.mark(a, "out")
    labels.mark(b, "in")
    labels.mark(c, "out")
    source = np.concatenate([a, a[:2]])
    labels.tie(source, b)
    labels.freeze(c, "pinned")
    return labels, source, c


def test_channels_that_take_different_numbers_of_positions_are_different_groups():
    labels, source, c = example()
    grouping = group_channels(labels, [source, c])
    found = {group.name: (group.channels, group.frozen) for group in grouping.groups}
    assert found == {"a": (2, None), "a#2": (3, None), "c": (3, "pinned")}
    members = {member.tensor: member.index.tolist() for member in grouping.groups[0].members}
    assert members == {"a.weight": [[0], [1]], "b.weight": [[0, 5], [1, 6]]}
    axis = grouping.axis(source)
    assert axis.terms == (("a", 2), ("a#2", 1))
    assert axis.size({"a": 1, "a#2": 3}) == 5
    assert grouping.axis(c).fixed == 3


def test_an_activation_that_holds_only_some_channels_splits_their_group():
    labels = Labels()
    a = labels.block("a.weight", 0, 6)
    labels.mark(a, "out")
    assert [group.channels for group in group_channels(labels, [a]).groups] == [6]
    grouping = group_channels(labels, [a, a[2:]])
    assert [group.channels for group in grouping.groups] == [2, 4]
    assert grouping.axis(a[2:]).size({"a": 0, "a#2": 3}) == 3


def test_a_group_frozen_later_becomes_a_fixed_size():
    labels, source, _ = example()
    grouping = group_channels(labels, [source]).with_frozen({"a#2": "tried in vain"})
    assert grouping.axis(source).terms == (("a", 2),)
    assert grouping.axis(source).fixed == 3
    assert [group.frozen for group in grouping.groups] == [None, "tried in vain", "pinned"]
