"""How a network becomes sparse while it is fine-tuned: what the training loop's hooks do, rule by rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import islice
from typing import Any

from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.compression.config import CompressConfig
from hwprune.compression.folder import RunFolder
from hwprune.compression.job import Job
from hwprune.compression.sparse_network import RECOVERABLE, left_dense
from hwprune.regrow import (
    BidirectionalPruner,
    BidirectionalSchedule,
    DenseReference,
    MaskUpdate,
    Periodic,
    Rule,
    SeparationPenalty,
    SparsePruner,
    hyperspherical,
    plain,
    rules,
)
from hwprune.regrow.distribution import weights_at
from hwprune.training import processes, steps_per_epoch, train_batches
from hwprune.training.evaluation import device_of
from hwprune.training.loader import seeded
from hwprune.training.modes import keeping_modes
from hwprune.training.task import Predict, Task

UPDATES = 40  # of the masks over a whole training, where an interval of its own would give fewer
CYCLES = 5  # of IEE, likewise
REFERENCE = "reference"  # checkpoint of what the dense weights were worth
OVERPRUNED = 0.8  # of the weights that are to stay, bidirectional pruning leaves so many before it grows (benchmarks)


class Way(ABC):
    """One way to make a network sparse while it is trained.

    Attributes:
        model: what is trained.
        task: what it is trained for.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model, self.task = model, task

    @abstractmethod
    def start(self, optimizer: Optimizer, saved: Any) -> None:
        """Begin, or continue.

        Args:
            optimizer: trains the model.
            saved: what :meth:`state_dict` gave; weights and optimizer are restored already. None to begin.
        """

    @abstractmethod
    def step(self) -> None:
        """Account for one step of the optimizer."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""

    @property
    def exploring(self) -> bool:
        """True while weights outside the masks hold values: no time to judge the network."""
        return False

    @property
    def updates(self) -> list[MaskUpdate]:
        """What became of the masks."""
        return []

    def trained(self) -> nn.Module:
        """The network in the architecture that it had before, its weights not thinned further."""
        return self.model


class Unpruned(Way):
    """Nothing has to become zero: nobody asked for it, or the dense network's stored file is inside its budget."""

    def start(self, optimizer: Optimizer, saved: Any) -> None:
        """Nothing to do."""

    def step(self) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Pruned(Way):
    """Masks over single weights, changed by a pruner."""

    _pruner: SparsePruner | BidirectionalPruner

    def step(self) -> None:
        """Hold what is pruned, and change the masks when that is due."""
        self._pruner.step()

    def state_dict(self) -> dict[str, Any]:
        """Of the pruner."""
        return self._pruner.state_dict()

    @property
    def updates(self) -> list[MaskUpdate]:
        """As the pruner says."""
        return self._pruner.history


class ByRule(Pruned):
    """A rule of :func:`hwprune.regrow.rules`."""

    _pruner: SparsePruner

    def __init__(self, job: Job, model: nn.Module, density: float) -> None:
        super().__init__(model, job.task)
        self._rule, self._config = rule_for(job.config, steps_of(job), density), job.config

    def start(self, optimizer: Optimizer, saved: Any) -> None:
        """Put on the first masks, or those that were saved."""
        exclude = self._config.stay_dense or ()
        self._pruner = SparsePruner(self.model, optimizer, self._rule, exclude=exclude, seed=self._config.seed)
        if saved is not None:
            self._pruner.load_state_dict(saved)

    @property
    def exploring(self) -> bool:
        """As the pruner says."""
        return self._pruner.exploring


class Bidirectional(Pruned):
    """Over-pruned at the start; after half of the training, the weights that the dense network misses most come back.

    Args:
        job: gives data, task and settings.
        model: the dense network.
        density: what there is in the end.
        run: keeps what the weights were worth, once that is known.
    """

    def __init__(self, job: Job, model: nn.Module, density: float, run: RunFolder) -> None:
        super().__init__(model, job.task)
        self._job, self._density, self._run = job, density, run
        each = steps_of(job) // 2
        self._schedule = BidirectionalSchedule(density=OVERPRUNED * density, prune_steps=each)

    def start(self, optimizer: Optimizer, saved: Any) -> None:
        """Measure what weights are worth and prune; or take over what was saved."""
        dense = DenseReference(self.model, exclude=self._job.config.stay_dense or ())
        if saved is None:
            measured = processes().from_first(lambda: self._measured(dense))
            self._run.keep(REFERENCE, measured)
        else:
            measured = self._run.kept(REFERENCE)
        dense.load_state_dict(measured)
        total = sum(value.numel() for value in dense.values.values())
        budget = weights_at(total, self._density)
        self._pruner = BidirectionalPruner(self.model, optimizer, dense, budget=budget, schedule=self._schedule)
        if saved is None:
            self._pruner.advance()
        else:
            self._pruner.load_state_dict(saved)

    def _measured(self, dense: DenseReference) -> dict[str, Any]:
        config, device = self._job.training(epochs=1), device_of(self.model)
        batches = train_batches(self._job.data, config, 0, augment=False)
        with keeping_modes(self.model), seeded(config.seed, 0):
            self.model.eval()
            for batch in islice(batches, self._job.config.saliency_batches):
                self.model.zero_grad()
                loss = self.task.loss(self.model, move_data_to_device(batch, device))
                loss.backward()  # type: ignore[no-untyped-call]
                dense.update(self.model)
        self.model.zero_grad()
        return dense.state_dict()


class Recoverable(Way):
    """Trained on hyperspheres with a penalty that parts the weights; what is pruned afterwards needs no training."""

    def __init__(self, job: Job, model: nn.Module, density: float) -> None:
        steps = steps_of(job)
        model = hyperspherical(model, exclude=left_dense(model, job.config))
        # distillation takes its share of the whole loss
        strength = 1 / (1 - job.config.distill)
        self._penalty = SeparationPenalty(
            model, density=density, strength=strength, warmup=steps // 10, ramp=max(1, steps // 2)
        )
        super().__init__(model, _Penalised(job.task, self._penalty.loss))

    def start(self, optimizer: Optimizer, saved: Any) -> None:
        """Nothing is pruned yet."""
        if saved is not None:
            self._penalty.load_state_dict(saved)

    def step(self) -> None:
        """One step further in the penalty's schedule."""
        self._penalty.step()

    def state_dict(self) -> dict[str, Any]:
        """Of the penalty."""
        return self._penalty.state_dict()

    def trained(self) -> nn.Module:
        """The network with its normalised weights."""
        return plain(self.model)


class _Penalised:
    """A task whose loss has a penalty added."""

    def __init__(self, task: Task, penalty: Callable[[], Tensor]) -> None:
        self.metric, self.higher_is_better = task.metric, task.higher_is_better
        self._task, self._penalty = task, penalty

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's loss, and the penalty."""
        return self._task.loss(model, batch) + self._penalty()

    def evaluate(self, predict: Predict, batches: Iterable[Any]) -> float:
        """As the task does."""
        return self._task.evaluate(predict, batches)


def way_for(job: Job, model: nn.Module, density: float, run: RunFolder) -> Way:
    """The way that the settings name.

    Args:
        job: gives data, task and settings.
        model: to be trained.
        density: share of the masked weights that is to stay.
        run: see :class:`Bidirectional`.

    Raises:
        InputError: the rule does not do with the number of steps, or with the density.
    """
    if density == 1:
        return Unpruned(model, job.task)
    if job.config.sparsify == "bidirectional":
        return Bidirectional(job, model, density, run)
    if job.config.sparsify == RECOVERABLE:
        return Recoverable(job, model, density)
    return ByRule(job, model, density)


def steps_of(job: Job) -> int:
    """Optimizer steps of the whole fine-tuning."""
    return job.config.epochs * steps_per_epoch(job.data, job.training(epochs=job.config.epochs))


def rule_for(config: CompressConfig, steps: int, density: float) -> Rule:
    """The rule, its intervals fitted to the length of the training.

    Args:
        config: names the rule.
        steps: of the training.
        density: of the end; of a pattern, what follows from it.

    Raises:
        InputError: a setting is out of range, or the training too short.
    """
    kind = rules()[config.sparsify]
    settings: dict[str, Any] = {"steps": steps}
    if issubclass(kind, Periodic):
        settings["interval"] = max(1, min(kind.interval, steps // UPDATES))
    if config.sparsify == "nm":
        settings["n"], settings["m"] = config.block
    else:
        settings["density"] = density
    if config.initial_density is not None:
        settings["initial_density"] = config.initial_density
    if config.sparsify == "iee":
        each = max(1, min(150, int(0.75 * steps) // (3 * CYCLES)))
        stages = dict.fromkeys(("importance_steps", "accuracy_steps", "exploration_steps"), each)
        settings |= {"fraction": config.explore_fraction, **stages}
    if "initial" in {entry.name for entry in fields(kind)}:
        settings["initial"] = "magnitude"  # what is fine-tuned was trained
    return kind(**settings)
