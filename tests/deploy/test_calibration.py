import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from hwprune.deploy.calibration import from_training
from hwprune.deploy.export import exported_bytes
from hwprune.errors import InputError
from hwprune.training import Data

from .lowered import Told


class Shut(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        raise AssertionError("a validation sample was asked for")


def content(batch):
    return exported_bytes(nn.Linear(3, 2).eval(), torch.zeros(batch, 3))


def data(count=50):
    return Data(train=Told(torch.arange(3.0 * count).reshape(count, 3), torch.zeros(count).long()), validation=Shut())


def test_samples_are_of_the_training_set_alone_and_drawn_by_the_seed():
    given = data()
    one, same, other = (from_training(content(4), given, batch=4, samples=18, seed=seed) for seed in (1, 1, 2))
    assert (one.samples, len(one.feeds), one.to_dict()) == (
        16,
        4,
        {"samples": 16, "source": "training set", "seed": 1},
    )
    rows = np.concatenate([feeds["input"] for feeds in one.feeds])
    assert len({tuple(row) for row in rows}) == 16
    drawn = given.train.seen[:16]
    assert np.array_equal(rows, given.train.tensors[0][drawn])
    assert drawn == given.train.seen[16:32] != given.train.seen[32:]
    assert [feeds["input"].tolist() for feeds in one.feeds] == [feeds["input"].tolist() for feeds in same.feeds]
    assert rows.tolist() != np.concatenate([feeds["input"] for feeds in other.feeds]).tolist()


def test_a_small_set_gives_all_it_has_and_fills_a_batch():
    assert from_training(content(4), data(7), batch=4, samples=100).samples == 4
    feeds = from_training(content(4), data(3), batch=4, samples=100).feeds
    assert len({tuple(row) for row in feeds[0]["input"]}) == 3


def test_several_inputs_go_by_name():
    class Two(nn.Module):
        def forward(self, ids, scale):
            return scale * ids.float()

    samples = [({"scale": torch.full((2,), float(i)), "ids": torch.tensor([i, i])}, 0) for i in range(5)]
    example = {"ids": torch.zeros(1, 2, dtype=torch.int64), "scale": torch.zeros(1, 2)}
    made = exported_bytes(Two().eval(), example)
    assert {port.name for port in onnx.load_from_string(made).graph.input} == {"ids", "scale"}
    for feeds in from_training(made, Data(train=samples, validation=Shut()), batch=1, samples=3).feeds:
        assert (feeds["ids"].dtype, feeds["scale"].dtype) == (np.int64, np.float32)
        assert np.array_equal(feeds["ids"], feeds["scale"])


def test_no_samples_are_refused():
    with pytest.raises(InputError, match="0 calibration samples"):
        from_training(content(1), data(), batch=1, samples=0)
