import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.errors import DataError
from hwprune.training.split import stratified_split


@given(labels=st.lists(st.integers(0, 4), min_size=6, max_size=60), seed=st.integers(0, 5))
def test_every_class_is_split_alike(labels, seed):
    train, validation = stratified_split(labels, seed)
    assert sorted(train + validation) == list(range(len(labels)))
    assert (train, validation) == stratified_split(labels, seed)
    for label in set(labels):
        count = labels.count(label)
        kept_back = sum(labels[i] == label for i in validation)
        assert kept_back == (0 if count == 1 else max(1, round(0.2 * count)))


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2]])
def test_too_few(labels):
    with pytest.raises(DataError, match=f"{len(labels)} samples cannot be split"):
        stratified_split(labels, 0)
