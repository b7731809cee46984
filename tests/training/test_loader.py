import random

import numpy as np
import torch
from torch.utils.data import TensorDataset

from hwprune.training import TrainConfig, steps_per_epoch, train_batches, validation_batches
from hwprune.training.augment import Augmented
from hwprune.training.loader import seeded

from .samples import blob_data


def numbers(count):
    return TensorDataset(torch.arange(count))


def order(epoch, seed=0):
    data = blob_data(train=numbers(40))
    return torch.cat([batch[0] for batch in train_batches(data, TrainConfig(batch_size=8, seed=seed), epoch)]).tolist()


def test_order_depends_on_seed_and_epoch_only():
    torch.manual_seed(1)
    first = order(0)
    torch.manual_seed(2)
    assert order(0) == first
    assert sorted(first) == list(range(40))
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_steps_are_counted_as_they_are_run():
    for size in (1, 7, 8, 9, 16, 23):
        data, config = blob_data(train=numbers(size)), TrainConfig(batch_size=8)
        assert len(list(train_batches(data, config, 0))) == steps_per_epoch(data, config)


def test_validation_is_whole_and_in_order():
    data = blob_data(validation=numbers(11))
    assert torch.cat([batch[0] for batch in validation_batches(data, 4)]).tolist() == list(range(11))


def test_augmentation_is_asked_for_on_both_sides():
    image = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(20, 1, 1, 1)
    train = TensorDataset(image, torch.zeros(20))

    def changed(allowed, wanted, **options):
        data, config = blob_data(train=train, augment=allowed), TrainConfig(batch_size=20, augment=wanted)
        (batch,) = train_batches(data, config, 0, **options)
        return not torch.equal(batch[0], image)

    assert changed(True, True)
    assert not changed(True, False)
    assert not changed(False, True)
    assert not changed(True, True, augment=False)


def test_augmented_images_are_shifted_and_mirrored():
    image = torch.arange(1.0, 1 + 16 * 8).reshape(1, 16, 8)
    dataset = TensorDataset(image.repeat(200, 1, 1, 1), torch.zeros(200))
    framed = torch.nn.functional.pad(image, (1, 1, 2, 2))
    possible = {
        tuple((crop.flip(-1) if mirror else crop).flatten().tolist())
        for up in range(5)
        for left in range(3)
        for mirror in (False, True)
        for crop in [framed[:, up : up + 16, left : left + 8]]
    }
    found = {tuple(Augmented(dataset, 0, 0)[i][0].flatten().tolist()) for i in range(200)}
    assert found == possible  # each of the 30, and nothing else


def test_seeding_reaches_all_generators_and_is_undone():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    outside = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with seeded(0, 1):
        first = draw()
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == outside
    draw()
    with seeded(0, 1):
        assert draw() == first
    with seeded(0, 2):
        assert draw() != first
