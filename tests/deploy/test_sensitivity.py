import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.deploy.sensitivity import fewest


def root(errors):
    return math.sqrt(sum(error**2 for error in errors))


@settings(max_examples=200, deadline=None)
@given(errors=st.lists(st.floats(0.001, 1), min_size=1, max_size=40), share=st.floats(0.01, 1.1))
def test_as_few_as_meet_the_gate_are_left_out(errors, share):
    """Against trying every number of them, where errors add up like those of independent nodes."""
    alone = {f"n{i}": error for i, error in enumerate(sorted(errors, reverse=True))}
    limit = share * root(errors)
    tried = []

    def build(kept):
        tried.append(len(kept))
        return tuple(name for name in alone if name not in kept)

    def error(model):
        return root(alone[name] for name in model)

    model, count, met = fewest(lambda: list(alone), build, error, lambda model: error(model) <= limit)
    needed = next((k for k in range(len(alone)) if error(list(alone)[k:]) <= limit), None)
    assert met == (needed is not None)
    assert model == tuple(list(alone)[count:])
    if met:
        assert count == needed
    else:
        least = error(list(alone)[len(alone) - 1 :])
        assert error(model) <= 1.05 * least
    assert len(tried) <= 2 * math.log2(len(alone) + 1) + 3


def test_nodes_are_ranked_only_if_the_gate_is_missed():
    def ranking():
        raise AssertionError("asked for")

    assert fewest(ranking, lambda kept: kept, lambda model: 0.0, lambda model: True) == ((), 0, True)


@pytest.mark.parametrize("names", [[], ["a"]])
def test_one_node_is_never_left_out(names):
    found = fewest(lambda: names, lambda kept: list(kept), lambda model: 1.0, lambda model: False)
    assert found == ([], 0, False)
