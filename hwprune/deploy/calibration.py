"""Inputs that lower precisions are calibrated on: samples of the training set, never of the validation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from hwprune import device_runner
from hwprune.deploy.engine import in_order
from hwprune.errors import InputError
from hwprune.network.forward import Example
from hwprune.training import Data
from hwprune.training.data import inputs_of
from hwprune.training.loader import seeded

SAMPLES = 128  # by default


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Inputs of an engine, batch by batch.

    Attributes:
        feeds: arrays by input name, each of the engine's batch size.
        samples: how many there are in all.
        source: what they are, in words.
        seed: by which they were drawn.
    """

    feeds: tuple[dict[str, NDArray[Any]], ...]
    samples: int
    source: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, without the samples."""
        return {"samples": self.samples, "source": self.source, "seed": self.seed}


def from_training(model: bytes, data: Data, *, batch: int, samples: int = SAMPLES, seed: int = 0) -> Calibration:
    """Samples of the training set, drawn without repetition while there are enough.

    Args:
        model: the ONNX model that takes them.
        data: its training set, without augmentation.
        batch: samples per call of the model.
        samples: how many to draw; rounded to whole batches, one at least.
        seed: decides which.

    Raises:
        InputError: fewer than one are asked for, or the samples are not the model's inputs.
    """
    if samples < 1:
        raise InputError(f"{samples} calibration samples were asked for", hint="give 1 or more; 128 is the default")
    available = len(data.train)  # type: ignore[arg-type]
    count = max(min(samples, available) // batch, 1) * batch
    chosen = np.resize(np.random.default_rng(seed).permutation(available), count).tolist()
    with seeded(seed, 0):
        batches = [inputs_of(item) for item in DataLoader(Subset(data.train, chosen), batch_size=batch)]
    return Calibration(feeds=_feeds(model, batches), samples=count, source="training set", seed=seed)


def from_example(model: bytes, example: Example, *, seed: int = 0) -> Calibration:
    """The one batch at hand, where there is no data set: good enough to see what overflows, not to choose ranges."""
    feeds = _feeds(model, [example])
    return Calibration(feeds=feeds, samples=len(next(iter(feeds[0].values()))), source="random inputs", seed=seed)


def _feeds(model: bytes, batches: Sequence[Example]) -> tuple[dict[str, NDArray[Any]], ...]:
    engine = device_runner.open_engine(model)
    names = [port["name"] for port in engine.inputs]
    return tuple(
        dict(zip(names, (tensor.detach().cpu().numpy() for tensor in in_order(engine, batch)), strict=True))
        for batch in batches
    )
