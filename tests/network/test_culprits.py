"""The search for groups that do not survive being cut, on faults that are planted."""

import math
import random

import numpy as np
import pytest

from hwprune.errors import ModelError
from hwprune.network.culprits import Culprits
from hwprune.network.deadline import Deadline
from hwprune.network.network import ChannelGroup, Member


def group(name):
    index = np.arange(4, dtype=np.int64)[:, None]
    return ChannelGroup(name, 4, (Member(f"{name}.weight", 0, "out", index),))


def letters(number):
    return "".join("abcdefghij"[int(digit)] for digit in str(number))  # numbers would make counterparts of them


class Faults:
    """Draw → sets of names that cannot be cut together in it."""

    def __init__(self, faults):
        self.faults, self.trials = faults, []

    def __call__(self, groups, draw):
        names = {one.name for one in groups}
        self.trials.append((frozenset(names), draw))
        broken = [sorted(fault) for fault in self.faults.get(draw, ()) if fault <= names]
        return f"fault of {broken[0]}" if broken else None


@pytest.mark.parametrize("seed", range(40))
def test_what_is_left_out_is_what_fails_with_those_before_it(seed):
    rng = random.Random(seed)
    names = [letters(number) for number in range(rng.randint(1, 40))]
    draws = rng.randint(1, 3)
    faults = {
        draw: [frozenset(rng.sample(names, min(len(names), rng.randint(1, 3)))) for _ in range(rng.randint(0, 4))]
        for draw in range(draws)
    }
    failure = Faults(faults)
    reasons = Culprits([group(name) for name in names], failure, Deadline(60), draws=draws).reasons()
    left = [name for name in names if name not in reasons]
    assert all((frozenset(left), draw) in failure.trials for draw in range(draws)) or not left
    assert not any(fault <= set(left) for all_of in faults.values() for fault in all_of)
    for name in reasons:  # each is needed for a fault, with what stands before it
        before = {other for other in names[: names.index(name)] if other not in reasons} | {name}
        known = [fault for all_of in faults.values() for fault in all_of if name in fault]
        assert any(fault <= before | reasons.keys() for fault in known)


def test_one_culprit_among_many_takes_few_trials():
    names = [letters(number) for number in range(500)]
    failure = Faults({1: [frozenset({names[321]})]})
    reasons = Culprits([group(name) for name in names], failure, Deadline(60), draws=2).reasons()
    assert list(reasons) == [names[321]]
    assert len(failure.trials) <= 5 + math.ceil(math.log2(500))


def test_of_counterparts_that_fail_alike_two_trials_tell():
    names = [f"blocks.{number}" for number in range(64)]
    failure = Faults({0: [frozenset({name}) for name in names]})
    reasons = Culprits([group(name) for name in (*names, "head")], failure, Deadline(60), draws=1).reasons()
    assert reasons.keys() == set(names)
    assert len(failure.trials) < 8


def test_of_counterparts_the_single_culprit_is_found():
    names = [f"blocks.{number}" for number in range(64)]
    failure = Faults({0: [frozenset({"blocks.41"})]})
    assert list(Culprits([group(name) for name in names], failure, Deadline(60), draws=2).reasons()) == ["blocks.41"]


def test_what_is_sound_is_in_every_trial_and_stays():
    failure = Faults({0: [frozenset({"one", "a"})]})
    sound = [group("one"), group("two")]
    found = Culprits([group("a"), group("b")], failure, Deadline(60), sound=sound, draws=1).reasons()
    assert list(found) == ["a"]
    assert all({"one", "two"} <= names for names, _ in failure.trials)


def test_time_that_is_up_ends_the_search():
    with pytest.raises(ModelError, match="trying to cut"):
        Culprits([group("a")], Faults({}), Deadline(-1), draws=1).reasons()
