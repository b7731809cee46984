"""A compression made ready to run: everything the user named, loaded and checked before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hwprune.budget import Budget, Plan, Problem, solvers
from hwprune.compression.config import CompressConfig, check
from hwprune.compression.progress import Progress
from hwprune.compression.sparse_settings import NOTHING
from hwprune.deploy import check_deliverable
from hwprune.errors import BudgetError, InputError, ModelError
from hwprune.inputs import Input
from hwprune.latency import LatencyTable
from hwprune.network import Network, load_model, load_weights, trace
from hwprune.network.forward import Example, mapped
from hwprune.network.inputs import floating_type
from hwprune.network.surgery import copied
from hwprune.targets import Runtime, Target, load_target, runtime_for
from hwprune.targets.connection import device_at
from hwprune.training import (
    ClassificationTask,
    Data,
    Task,
    TrainConfig,
    check_accelerator,
    load_data,
    load_task,
    processes,
)
from hwprune.training.data import inputs_of, misfit, validation_inputs


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the stages of a compression work on.

    Attributes:
        config: what the user asked for.
        model: the dense network with its weights, in eval mode; never changed.
        network: its trace.
        example: one input batch of the target's size.
        data: training and validation sets.
        task: loss and metric.
        target: the device.
        runtime: how engines run on it.
        table: a latency table that was given, already checked against the target; None to measure one.
        progress: where to say what is going on.
    """

    config: CompressConfig
    model: nn.Module
    network: Network
    example: Example
    data: Data
    task: Task
    target: Target
    runtime: Runtime
    table: LatencyTable | None
    progress: Progress

    @property
    def budget(self) -> Budget:
        """The budget that was asked for, where channels are cut."""
        return self.config.budget

    @property
    def cuts(self) -> bool:
        """Whether there is a budget for which channels are cut."""
        return bool(self.config.budgets)

    @property
    def teacher(self) -> nn.Module | None:
        """The dense network, if it is distilled from."""
        return self.model if self.config.distill > 0 else None

    @property
    def measurable(self) -> bool:
        """Whether the target can be measured from here."""
        return self.target.connection != "none"

    def solver(self, problem: Problem) -> Plan:
        """Choose widths; the first process does, for a solver that a time limit ends may not end alike twice."""
        solve = solvers()[self.config.solver]
        return processes().from_first(lambda: solve(problem))

    def fresh_model(self) -> nn.Module:
        """A copy of the dense network that may be trained."""
        return copy.deepcopy(self.model)

    def training(self, *, epochs: int, constant: bool = False) -> TrainConfig:
        """Settings of one training phase.

        Args:
            epochs: its length.
            constant: keep the learning rate, instead of letting it fall along a cosine.
        """
        c = self.config
        return TrainConfig(
            epochs=epochs,
            learning_rate=c.learning_rate,
            batch_size=c.batch_size,
            optimizer=c.optimizer,
            weight_decay=c.weight_decay,
            distill_weight=c.distill,
            schedule="constant" if constant else "cosine",
            num_workers=c.workers,
            accelerator=c.accelerator,
            precision=c.training_precision,
            augment=c.augment,
            seed=c.seed,
        )

    def validation_inputs(self, samples: int) -> Iterator[Example]:
        """Real input batches of the target's size from the validation set, at most ``samples`` of its samples.

        A validation set smaller than one batch gives the example, which repeats one of its samples.
        """
        batch = self.target.batch
        if len(self.data.validation) < batch:  # type: ignore[arg-type]
            yield self.example
        else:
            yield from validation_inputs(self.data, batch, samples)


def prepare(
    config: CompressConfig,
    progress: Progress,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    table: LatencyTable | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> Job:
    """Load and check everything a compression needs; writes nothing.

    Args:
        config: what the user asked for.
        progress: where to say what is going on.
        model: a module already in memory, instead of ``config.model``.
        data: data sets already in memory, instead of ``config.data``.
        table: a table already in memory, instead of ``config.table``.
        state: weights of the dense network as an interrupted run keeps them, instead of ``config.weights``.

    Raises:
        InputError: anything that is missing, malformed or does not fit together.
    """
    check(config)
    here = processes()
    torch.manual_seed(config.seed)
    target = load_target(config.target, threads=config.threads, precision=config.precision, batch=config.batch)
    for one in config.inputs:
        target.check_batch(one.shape)
    if config.sparsify != NOTHING and target.precision != "fp32":
        raise InputError(
            f"sparse files are made of float32 engines, and target {target.name!r} is for {target.precision}",
            hint="leave out --precision (--storage gap8-int8 rounds what is stored), or leave out --sparsify",
        )
    runtime = runtime_for(target)
    table = here.from_first(lambda: _checked_table(config, target, runtime, table))
    progress.say(f"reading the model {config.model} and the data {config.data}")
    dense = _dense(config, model, state, progress)
    data = data or load_data(config.data, input_shape=config.input_shape, seed=config.seed)
    example = _example(dense, data, config.inputs, target.batch)
    here.share([*dense.parameters(), *dense.buffers()])
    network = here.from_first(lambda: trace(dense, example, head_sizes=config.head_sizes))
    if config.budgets:
        _check_cuttable(network, progress)
    job = Job(
        config=config,
        model=dense,
        network=network,
        example=example,
        data=data,
        task=_task(config, network, data),
        target=target,
        runtime=runtime,
        table=table,
        progress=progress,
    )
    check_accelerator(job.training(epochs=config.epochs))  # refuses settings that no training can have, too
    return job


def _dense(
    config: CompressConfig, model: nn.Module | None, state: dict[str, torch.Tensor] | None, progress: Progress
) -> nn.Module:
    dense = load_model(config.model if model is None else model, say=progress.say)
    if model is not None:
        dense = copied(dense)
    if floating_type(dense) in (torch.float16, torch.bfloat16):
        raise ModelError(
            f"the model is in {str(floating_type(dense)).removeprefix('torch.')}, in which compress cannot train it",
            hint="give it in float32 (model.float()), and a target of precision fp16 for an engine in half",
        )
    if state is not None:
        _restore(dense, state)
    elif config.weights is not None:
        load_weights(dense, config.weights)
    return dense.eval()


def _task(config: CompressConfig, network: Network, data: Data) -> Task:
    if config.task is not None:
        return load_task(config.task)
    _check_classifier(network.output_shape, data)
    return ClassificationTask(label_smoothing=config.label_smoothing)


def _check_cuttable(network: Network, progress: Progress) -> None:
    if not network.cuttable:
        raise BudgetError(
            "nothing in this model can be cut: " + _reasons(network),
            hint="channels can be cut where no output, fixed size or unknown operator depends on them",
        )
    for group in network.frozen:
        progress.say(f"cannot be cut: {group.name} ({group.channels} channels): {group.frozen}")


def _restore(dense: nn.Module, state: dict[str, torch.Tensor]) -> None:
    try:
        dense.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the model is not the one that the run was started with: {error}",
            hint="resume with the model as it was, or start another run in a new folder",
        ) from error


def _checked_table(
    config: CompressConfig, target: Target, runtime: Runtime, table: LatencyTable | None
) -> LatencyTable | None:
    """The table that was given, which fits the target; None to measure one there."""
    if table is None and config.table is not None:
        table = LatencyTable.load(config.table)
    check_deliverable(target)
    if target.connection == "none":
        if table is None and not (config.budgets and config.budget.metric == "latency_ms"):
            return None
        if table is None:
            raise InputError(
                f"target {target.name} cannot be reached from here and no table of it was given",
                hint="give --table, measured on the device with hwprune profile",
            )
        table.check(target, None)
        return table
    reason = runtime.unavailable()
    if reason is not None:
        raise InputError(f"target {target.name} cannot be used: {reason}", hint="see hwprune targets")
    if table is not None:
        table.check(target, device_at(target))
    return table


def _example(model: nn.Module, data: Data, inputs: Sequence[Input], batch: int) -> Example:
    """A batch of the target's size, of one real validation sample repeated as often as needed."""
    sample = inputs_of(data.validation[0])
    if not isinstance(sample, torch.Tensor | Mapping | tuple | list):
        sample = torch.as_tensor(sample)
    wrong = misfit(sample, inputs)
    if wrong:
        raise InputError(
            f"the data gives {wrong}, as --input-shape says",
            hint="make them agree; the first number of every --input-shape is the batch size",
        )
    if isinstance(sample, torch.Tensor) and inputs[0].dtype is None:
        sample = sample.to(floating_type(model))
    return mapped(lambda tensor: tensor.unsqueeze(0).repeat(batch, *[1] * tensor.dim()), sample)


def _check_classifier(output_shape: tuple[int, ...], data: Data) -> None:
    if len(output_shape) != 2:
        raise ModelError(
            f"the model's output has shape {output_shape}, a classifier's has (batch, classes)",
            hint="for another task give --task FILE with loss(model, batch) and evaluate(predict)",
        )
    if data.classes is not None and output_shape[1] < data.classes:
        raise ModelError(
            f"the model has {output_shape[1]} outputs, the data {data.classes} classes",
            hint="give the model that was trained on this data",
        )


def _reasons(network: Network) -> str:
    return "; ".join(f"{group.name}: {group.frozen}" for group in network.frozen) or "it has no layer with channels"
