"""The task's metric on the validation set, for a torch model or for any other predictor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor, nn

from hwprune.training.data import Data
from hwprune.training.loader import validation_batches
from hwprune.training.modes import keeping_modes
from hwprune.training.task import ClassificationTask, Predict, Task


def evaluate(predict: Predict, data: Data, task: Task, *, batch_size: int = 64) -> float:
    """Metric of a predictor, such as an exported engine.

    Args:
        predict: maps inputs (N, …), by position or by name, to outputs (N, …), all on the CPU.
        data: its validation set.
        task: says what is measured.
        batch_size: samples per call; the last call may have fewer.
    """
    return task.evaluate(predict, validation_batches(data, batch_size))


def evaluate_model(model: nn.Module, data: Data, task: Task, *, batch_size: int = 64) -> float:
    """Metric of a torch model in eval mode, without gradients; its modes are as before afterwards."""
    with _predicting(model) as predict:
        return evaluate(predict, data, task, batch_size=batch_size)


def hits(predict: Predict, data: Data, task: ClassificationTask, *, batch_size: int = 64) -> NDArray[np.bool_]:
    """For every validation sample whether a predictor names its class, (N,); arguments as :func:`evaluate`."""
    return task.hits(predict, validation_batches(data, batch_size)).numpy()


def hits_of_model(model: nn.Module, data: Data, task: ClassificationTask, *, batch_size: int = 64) -> NDArray[np.bool_]:
    """The same of a torch model, as in :func:`evaluate_model`."""
    with _predicting(model) as predict:
        return hits(predict, data, task, batch_size=batch_size)


@contextmanager
def _predicting(model: nn.Module) -> Iterator[Predict]:
    device = device_of(model)

    def predict(*inputs: Tensor, **named: Tensor) -> Any:
        with torch.no_grad():
            return model(*move_data_to_device(inputs, device), **move_data_to_device(named, device))

    with keeping_modes(model):
        model.eval()
        yield predict


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
