import math

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.deploy.accuracy import Gates, Judge, paired
from hwprune.errors import InputError
from hwprune.training import ClassificationTask, Data, load_task


def hits(*counts):
    """Both right, only the source, only the artifact, none."""
    both, source, artifact, none = counts
    wanted = [(1, 1)] * both + [(1, 0)] * source + [(0, 1)] * artifact + [(0, 0)] * none
    return (np.array([pair[i] for pair in wanted], dtype=bool) for i in (0, 1))


def test_what_is_lost_is_counted_on_pairs():
    found = paired(*hits(80, 12, 3, 5))
    assert (found.source, found.artifact, found.samples) == (0.92, 0.83, 100)
    assert found.lost == pytest.approx(0.09)
    assert found.low < 0.09 < found.high
    # McNemar's exact test by hand: 3 or fewer of 15 disagreements, both ways
    assert found.p_value == pytest.approx(2 * sum(math.comb(15, k) for k in range(4)) / 2**15)


def test_engines_that_never_disagree_still_leave_room_for_doubt():
    found = paired(*hits(50, 0, 0, 10))
    assert (found.lost, found.p_value) == (0, 1)
    assert -0.1 < found.low < 0 < found.high < 0.1


@pytest.mark.parametrize("truth", [(0.9, 0.05, 0.02, 0.03), (0.6, 0.01, 0.01, 0.38)])
def test_the_interval_holds_the_truth_as_often_as_it_says(truth):
    rng, times, inside = np.random.default_rng(0), 600, 0
    for _ in range(times):
        found = paired(*hits(*rng.multinomial(150, truth)))
        inside += found.low <= truth[1] - truth[2] <= found.high
    assert 0.93 <= inside / times <= 1


def test_gates():
    found = paired(*hits(88, 3, 1, 8))  # 0.91 to 0.89
    assert found.passes(Gates())
    assert found.passes(Gates(max_degradation=0.02))
    assert not found.passes(Gates(max_degradation=0.019))
    assert found.passes(Gates(percent_max_degradation=2.2))
    assert not found.passes(Gates(percent_max_degradation=2.1))
    assert not found.passes(Gates(max_degradation=0.5, percent_max_degradation=1))  # both hold
    better = paired(*hits(88, 1, 3, 8))
    assert better.passes(Gates(max_degradation=0, percent_max_degradation=0))


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_gates_are_numbers_from_zero(bad):
    with pytest.raises(InputError, match="max_degradation"):
        Gates(percent_max_degradation=bad)


class Zeros:
    def __init__(self):
        self.inputs, self.outputs = ([{"name": name, "shape": [None, 2], "dtype": "float32"}] for name in "xy")

    def run(self, feeds):
        return [0 * feeds["x"]]


def test_a_task_of_ones_own_is_judged_by_its_number(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(
        "import torch\nmetric = 'error'\nhigher_is_better = False\ndef loss(m, b): return 0\n"
        "def evaluate(predict): return float((predict(torch.ones(3, 2)) - 1).abs().mean())\n"
    )
    data = Data(train=[0], validation=[0])
    found = Judge(nn.Identity(), data, load_task(path)).degradation(Zeros())
    assert (found.source, found.artifact, found.lost) == (0, 1, 1)
    assert found.low is found.p_value is found.samples is None
    assert not found.passes(Gates(max_degradation=0.5))


def test_an_engine_is_judged_on_the_validation_set():
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    data = Data(train=[], validation=[(row, int(row[1])) for row in inputs])
    judge = Judge(nn.Identity(), data, ClassificationTask())
    found = judge.degradation(Zeros())  # the first class, always
    assert (found.source, found.artifact, found.samples) == (1, 0.5, 4)
    assert judge.degradation_of(nn.Identity()).lost == 0
