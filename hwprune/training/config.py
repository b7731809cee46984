"""How to train: every number the loop needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hwprune.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of :func:`hwprune.training.train`.

    Attributes:
        epochs: passes over the training set.
        batch_size: samples per step, of all processes together.
        optimizer: ``sgd`` (Nesterov momentum) or ``adamw``.
        learning_rate: peak rate.
        warmup: epochs (may be a fraction) in which the rate rises linearly to its peak.
        schedule: afterwards the rate falls to 0 along a ``cosine``, or stays ``constant``.
        momentum: of SGD.
        weight_decay: on tensors of two or more dimensions (not on biases and normalisations).
        grad_clip: largest L2 norm of the whole gradient; 0 is off.
        distill_weight: share of the distillation loss, in [0, 1]; 0 is off.
        distill_temperature: softening of both sides' logits.
        augment: flip and shift training images, if the data set allows it.
        precision: ``32-true`` or ``bf16-mixed`` (Lightning Fabric's names).
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        num_workers: processes that load data; 0 loads in this one.
        seed: decides order and augmentation, together with the number of the epoch and nothing else.
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    warmup: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    grad_clip: float = 0.0
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    augment: bool = True
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: str = "auto"
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        for name, least in (("epochs", 0), ("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}", hint=f"{name} is a whole number of at least {least}")
        limits = {"warmup": 1e6, "momentum": 1.0, "weight_decay": 1e6, "grad_clip": 1e6, "distill_weight": 1.0}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)!r}", hint=f"{name} lies between 0 and {most:g}")
        for name in ("learning_rate", "distill_temperature"):
            if not (0 < getattr(self, name) < math.inf):
                raise InputError(f"{name} is {getattr(self, name)!r}", hint=f"{name} is greater than 0")
        for name, allowed in (
            ("optimizer", ("sgd", "adamw")),
            ("schedule", ("cosine", "constant")),
            ("precision", ("32-true", "bf16-mixed")),
            ("accelerator", ("auto", "cpu", "cuda", "mps")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}", hint=f"{name} is one of {', '.join(allowed)}")

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step.

        Args:
            step: counted from 0 over all epochs.
            steps_per_epoch: steps in one epoch.
        """
        total = self.epochs * steps_per_epoch
        warmup = min(self.warmup * steps_per_epoch, total)
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
