"""Batches of a data set, in an order that depends on the seed and the epoch only."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from hwprune.errors import InputError
from hwprune.training.augment import Augmented
from hwprune.training.config import TrainConfig
from hwprune.training.data import Data
from hwprune.training.processes import Processes, processes


def train_batches(data: Data, config: TrainConfig, epoch: int, *, augment: bool = True) -> DataLoader[Any]:
    """Shuffled batches of one epoch; what is left of an incomplete batch waits for another epoch.

    Of several processes each gets its share of every batch, every so many samples one: all shares together are the
    batch that one process gets, augmented alike. What a user's own transforms draw is not the same then.

    Args:
        data: its training set.
        config: batch size, augmentation, workers, seed.
        epoch: number of the epoch, from 0.
        augment: False to leave the images as they are, whatever ``config`` says.

    Raises:
        InputError: a batch has fewer samples than there are processes.
    """
    augment = augment and config.augment and data.augment
    dataset = Augmented(data.train, config.seed, epoch) if augment else data.train
    generator = torch.Generator().manual_seed(_mix(config.seed, epoch))
    order = RandomSampler(dataset, generator=generator)  # type: ignore[arg-type]
    batches = BatchSampler(order, config.batch_size, drop_last=_size(data) > config.batch_size)
    _samples(data, config)
    shares = _Shares(batches, processes())
    return DataLoader(dataset, batch_sampler=shares, num_workers=config.num_workers, generator=generator)


class _Shares:
    """What one process gets of every batch."""

    def __init__(self, batches: BatchSampler, here: Processes) -> None:
        self._batches, self._here = batches, here

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self._here.rank :: self._here.count] for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def weight_of_share(data: Data, config: TrainConfig) -> float:
    """By what a process multiplies the mean over its share of a batch: the mean of these is that over the batch."""
    here, samples = processes(), _samples(data, config)
    return len(range(here.rank, samples, here.count)) * here.count / samples


def _samples(data: Data, config: TrainConfig) -> int:
    """In every batch: all of them are whole, or there is but one."""
    samples, here = min(config.batch_size, _size(data)), processes()
    if samples < here.count:
        raise InputError(
            f"batches of {samples} samples cannot be shared by {here.count} processes",
            hint="give a larger batch_size (it is that of all processes together), or start fewer processes",
        )
    return samples


def validation_batches(data: Data, batch_size: int) -> DataLoader[Any]:
    """The validation set in order, nothing dropped."""
    return DataLoader(data.validation, batch_size=batch_size, generator=torch.Generator().manual_seed(0))


def steps_per_epoch(data: Data, config: TrainConfig) -> int:
    """Optimizer steps in one epoch."""
    return max(_size(data) // config.batch_size, 1)


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """Seed torch, numpy and random for dropout and a user's own transforms; afterwards all is as before.

    Of several processes every one draws other numbers.
    """
    rank = processes().rank
    mixed = _mix(seed, epoch, *([rank] if rank else []))
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


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _size(data: Data) -> int:
    return len(data.train)  # type: ignore[arg-type]
