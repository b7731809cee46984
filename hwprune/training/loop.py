"""The training loop, on Lightning Fabric; it can be stopped after any epoch and continued bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from hwprune.errors import InputError, ModelError
from hwprune.training.config import TrainConfig
from hwprune.training.data import Data
from hwprune.training.distill import Distillation
from hwprune.training.evaluation import device_of, evaluate_model
from hwprune.training.launching import launched
from hwprune.training.loader import seeded, steps_per_epoch, train_batches, weight_of_share
from hwprune.training.modes import keeping_modes
from hwprune.training.processes import checksum, processes
from hwprune.training.state import TrainState
from hwprune.training.task import Task


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What ``train`` reports after every step.

    Attributes:
        step: steps done, over all epochs.
        steps: how many there will be, over all epochs.
        loss: of this step, over the whole batch.
    """

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Hooks:
    """What a caller does along the way.

    Attributes:
        on_step: called with the bare model and its optimizer after ``optimizer.step()``, while the step's gradients are
            still there.
        on_epoch: called with a copy of the state after every epoch; raising from it stops the training.
        on_progress: called after every step.
        on_start: called once before the first step with the bare model, on its device, and its optimizer, after a state
            that is continued from was restored.
    """

    on_step: Callable[[nn.Module, Optimizer], None] | None = None
    on_epoch: Callable[[TrainState], None] | None = None
    on_progress: Callable[[Progress], None] | None = None
    on_start: Callable[[nn.Module, Optimizer], None] | None = None


def train(
    model: nn.Module,
    data: Data,
    task: Task,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    hooks: Hooks | None = None,
    start: TrainState | None = None,
) -> TrainState:
    """Train ``model`` in place, up to ``config.epochs``.

    Order, augmentation and dropout of an epoch depend on (seed, epoch) only, the learning rate on the step. So
    continuing from a state gives what an uninterrupted training would have given, bit for bit on the same machine
    with as many threads.

    Started by torchrun, the processes train together, each on its share of every batch (``config.batch_size`` is that
    of the whole one), with gradients averaged. Order and augmentation are those of one process, and so is the loss, if
    the task's is a mean over samples; what dropout draws is not, and batch norms normalise over shares. Running
    statistics are the first process', which evaluates, too.

    Args:
        model: trained in place; comes back on the device and in the mode it had.
        data: its training set is learnt, its validation set evaluated after every epoch.
        task: loss and metric.
        config: all the numbers.
        teacher: answers for distillation; used if ``config.distill_weight`` is above 0.
        hooks: called after every step and every epoch.
        start: continue from here; its weights are loaded into the model first.

    Returns:
        the state after the last epoch.

    Raises:
        InputError: the loss is not finite, ``start`` does not fit, there is nothing to train, no such accelerator;
            processes have other data or came to other weights than the first.
        DataError: a sample cannot be read.
        ElsewhereError: another process failed.
    """
    if config.distill_weight > 0 and teacher is None:
        raise InputError(f"distill_weight is {config.distill_weight} but there is no teacher", hint="set it to 0")
    home, optimizer = device_of(model), _optimizer(model, config)
    loop = _Loop(model, optimizer, data, task, config, hooks or Hooks())
    try:
        with launched(), keeping_modes(model):
            return loop.run(start, teacher)
    finally:
        optimizer.zero_grad()
        model.to(home)


@dataclass
class _Loop:
    """What stays the same over all epochs of one training."""

    model: nn.Module
    optimizer: Optimizer
    data: Data
    task: Task
    config: TrainConfig
    hooks: Hooks
    fabric: Fabric = field(init=False)
    wrapped: nn.Module = field(init=False)
    share: float = field(init=False)
    distillation: Distillation | None = None

    def run(self, start: TrainState | None, teacher: nn.Module | None) -> TrainState:
        """Train from ``start`` to the last epoch."""
        here = processes()
        here.check_same("training sets", len(self.data.train), hint="give all the same data")  # type: ignore[arg-type]
        self.fabric, self.share = _fabric(self.config), weight_of_share(self.data, self.config)
        self.wrapped, _ = self.fabric.setup(self.model, self.optimizer)
        if start:
            _restore(self.model, self.optimizer, start)
        here.share([*self.model.parameters(), *self.model.buffers()])
        if self.hooks.on_start:
            self.hooks.on_start(self.model, self.optimizer)
        state = start or _snapshot(0, self.model, self.optimizer, [])
        with ExitStack() as stack:
            if teacher is not None and self.config.distill_weight > 0:
                weight, temperature = self.config.distill_weight, self.config.distill_temperature
                listening = Distillation(self.wrapped, teacher, weight=weight, temperature=temperature)
                self.distillation = stack.enter_context(listening)
            for epoch in range(state.epoch, self.config.epochs):
                record = self.run_epoch(epoch)
                state = _snapshot(epoch + 1, self.model, self.optimizer, [*state.history, record])
                if self.hooks.on_epoch:
                    self.hooks.on_epoch(state)
        return state

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, evaluate, and return the epoch's record."""
        steps = steps_per_epoch(self.data, self.config)
        self.model.train()
        losses: list[float] = []
        with seeded(self.config.seed, epoch):
            for index, batch in enumerate(train_batches(self.data, self.config, epoch)):
                step = epoch * steps + index
                rate = self.config.learning_rate_at(step, steps)
                losses.append(self._step(move_data_to_device(batch, self.fabric.device), rate, step))
                if self.hooks.on_progress:
                    self.hooks.on_progress(Progress(step=step + 1, steps=steps * self.config.epochs, loss=losses[-1]))
            self._agree()
            metric = processes().from_first(self._evaluate)
        return {"epoch": epoch + 1, "loss": sum(losses) / len(losses), "metric": metric, "learning_rate": rate}

    def _agree(self) -> None:
        """Make sure that all processes came to the same weights; their buffers become the first one's."""
        here = processes()
        if here.count > 1:
            here.check_same(
                "weights",
                checksum(self.model.parameters()),
                hint="what changes weights has to do so alike in every process; use devices of one kind",
            )
            here.share(self.model.buffers())

    def _evaluate(self) -> float:
        return evaluate_model(self.wrapped, self.data, self.task, batch_size=self.config.batch_size)

    def _step(self, batch: Any, rate: float, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.task.loss(self.wrapped, batch)
        if self.distillation:
            loss = self.distillation.blend(loss)
        if self.share != 1:
            loss = loss * self.share
        value = processes().mean(float(loss.detach()))
        if not math.isfinite(value):
            raise InputError(
                f"the training diverged: the loss is {value} at step {step + 1}, learning rate {rate:.4g}",
                hint="lower the learning rate, add warm-up or set grad_clip",
            )
        self.fabric.backward(loss)
        processes().average_gradients(self.model.parameters())
        if self.config.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        if self.hooks.on_step:
            self.hooks.on_step(self.model, self.optimizer)
        self.optimizer.zero_grad()
        return value


def check_accelerator(config: TrainConfig) -> None:
    """Refuse an accelerator that this machine lacks, before any work is done.

    Raises:
        InputError: naming it and what there is.
    """
    _fabric(config)


def _fabric(config: TrainConfig) -> Fabric:
    try:
        fabric = Fabric(accelerator=config.accelerator, precision=config.precision, **_layout())
        fabric.launch()
    except (RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"accelerator {config.accelerator!r} cannot be used: {error}", hint="use cpu, or auto"
        ) from error
    return fabric


def _layout() -> dict[str, Any]:
    here = processes()
    if here.count == 1:
        return {"devices": 1}
    return {"strategy": _Unwrapped(), "devices": here.local, "num_nodes": here.count // here.local}


class _Unwrapped(DDPStrategy):
    """Fabric's DDP with the model as it is: the loop averages gradients itself.

    DistributedDataParallel refuses outputs that the loss does not depend on (auxiliary heads) and branches that are
    removed on the way, and holds on to the connections whose end tells the others of an error.
    """

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The module."""
        return module


def _optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameter", hint="set requires_grad on what shall be trained")
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.learning_rate)
    return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)


def _snapshot(epoch: int, model: nn.Module, optimizer: Optimizer, history: list[dict[str, float]]) -> TrainState:
    weights, moments = deepcopy(move_data_to_device((dict(model.state_dict()), optimizer.state_dict()), "cpu"))
    return TrainState(epoch=epoch, model=weights, optimizer=moments, history=history)


def _restore(model: nn.Module, optimizer: Optimizer, state: TrainState) -> None:
    try:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(deepcopy(state.optimizer))
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"the training state of epoch {state.epoch} does not fit the model: {error}",
            hint="continue with the same model and the same optimizer",
        ) from error
