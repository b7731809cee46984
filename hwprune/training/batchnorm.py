"""Batch-norm statistics that fit the weights again after channels were cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwprune.training.config import TrainConfig
from hwprune.training.data import Data
from hwprune.training.evaluation import device_of
from hwprune.training.loader import seeded, train_batches
from hwprune.training.modes import keeping_modes
from hwprune.training.processes import processes
from hwprune.training.task import Task


def recalibrate_batchnorm(
    model: nn.Module, data: Data, task: Task, *, batches: int = 50, config: TrainConfig | None = None
) -> int:
    """Estimate the running mean and variance of every batch norm anew, from training batches.

    Statistics are the plain average over the batches (momentum=None). Everything but the batch norms runs in eval mode;
    parameters do not change; modes and momenta are as before afterwards. Of several processes the first one does it, on
    whole batches, and all get what it found.

    Args:
        model: changed in place (buffers of its batch norms only).
        data: its training set; not augmented.
        task: its loss runs the model.
        batches: at most so many.
        config: batch size, workers and seed; the default TrainConfig if not given.

    Returns:
        number of batches that were used; 0 if the model has no batch norm with running statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    settings = config or TrainConfig()
    used = processes().from_first(lambda: _recalibrate(model, norms, data, task, batches=batches, settings=settings))
    processes().share(model.buffers())
    return used


def _recalibrate(
    model: nn.Module, norms: list[_BatchNorm], data: Data, task: Task, *, batches: int, settings: TrainConfig
) -> int:
    device, used = device_of(model), 0
    with keeping_modes(model), _averaging(norms), torch.no_grad(), seeded(settings.seed, 0):
        model.eval()
        for norm in norms:
            norm.train()
        for batch in islice(train_batches(data, settings, 0, augment=False), batches):
            task.loss(model, move_data_to_device(batch, device))
            used += 1
    return used


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
