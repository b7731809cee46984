"""Batches of a data set, in an order that depends on the seed and the epoch only."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from hwprune.training.augment import Augmented
from hwprune.training.config import TrainConfig
from hwprune.training.data import Data


def train_batches(data: Data, config: TrainConfig, epoch: int, *, augment: bool = True) -> DataLoader[Any]:
    """Shuffled batches of one epoch; what is left of an incomplete batch waits for another epoch.

    Args:
        data: its training set.
        config: batch size, augmentation, workers, seed.
        epoch: number of the epoch, from 0.
        augment: False to leave the images as they are, whatever ``config`` says.
    """
    augment = augment and config.augment and data.augment
    dataset = Augmented(data.train, config.seed, epoch) if augment else data.train
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=_size(data) > config.batch_size,
        num_workers=config.num_workers,
        generator=torch.Generator().manual_seed(_mix(config.seed, epoch)),
    )


def validation_batches(data: Data, batch_size: int) -> DataLoader[Any]:
    """The validation set in order, nothing dropped."""
    return DataLoader(data.validation, batch_size=batch_size, generator=torch.Generator().manual_seed(0))


def steps_per_epoch(data: Data, config: TrainConfig) -> int:
    """Optimizer steps in one epoch."""
    return max(_size(data) // config.batch_size, 1)


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """Seed torch, numpy and random for dropout and a user's own transforms; afterwards all is as before."""
    mixed = _mix(seed, epoch)
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(mixed)
        random.seed(mixed)
        np.random.seed(mixed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


def _size(data: Data) -> int:
    return len(data.train)  # type: ignore[arg-type]
