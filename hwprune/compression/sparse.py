"""Fine-tuning that makes single weights zero, and what is done so that the network is as sparse as was asked."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from hwprune.budget import Plan
from hwprune.compression.folder import RunFolder
from hwprune.compression.job import Job
from hwprune.compression.sparse_network import RECOVERABLE, SparseNetwork, masks_over, thinned
from hwprune.compression.sparse_settings import NOTHING
from hwprune.compression.sparse_ways import Way, way_for
from hwprune.files import write_atomic
from hwprune.regrow import Recovery
from hwprune.regrow.distribution import weights_at
from hwprune.training import (
    Hooks,
    TrainState,
    evaluate_model,
    load_checkpoint,
    recalibrate_batchnorm,
    save_checkpoint,
    train,
)

ANY_DENSITY = 0.01  # stands for one that a budget of bytes gives later


def check_trainable(job: Job) -> None:
    """Refuse, before anything is written, what the rule would refuse when it is to start.

    Raises:
        InputError: the training is too short for the rule, or the density out of its range.
        ModelError: the model has nothing that the rule can mask.
    """
    if job.config.sparsify != NOTHING:
        masks_over(job.model, job.config)
        way_for(job, job.model, job.config.density or ANY_DENSITY, job.config.output)


def keep_whole(job: Job, run: RunFolder) -> dict[str, Any]:
    """In place of solving, where no budget asks for cuts: write the plan that keeps every channel."""
    widths = {group.name: group.channels for group in job.network.cuttable}
    kept = {name: tuple(range(width)) for name, width in widths.items()}
    write_atomic(run.path / "plan.json", Plan(widths=widths, kept=kept, solver="nothing is cut").to_json())
    return {"predicted": None, "inside": True, "trials": []}


def finetune_sparse(job: Job, run: RunFolder, model: nn.Module, attempt: int) -> dict[str, Any]:
    """Train a network sparse; write its weights.

    Args:
        job: says by which rule, and how sparse.
        run: where weights and checkpoints go.
        model: dense, cut or not; trained in place.
        attempt: of the closed loop.

    Returns:
        what the result says about zeros.
    """
    density = job.config.density
    assert density is not None
    way = way_for(job, model, density, run.checkpoint(f"reference-{attempt}"))
    _train(job, run, way, attempt)
    network, record = _pruned(job, way.trained(), density)
    save_checkpoint(run.checkpoint("finetuned"), network.model.state_dict())
    if network.recovery is not None:
        save_checkpoint(run.checkpoint("recovery"), network.recovery.state_dict())
    run.document["mask_updates"] = [update.to_dict() for update in way.updates]
    return {**network.facts(), **record}


def sparse_form(job: Job, run: RunFolder, model: nn.Module) -> nn.Module:
    """The form in which a fine-tuned network is exported: with zeros where its weights were pruned."""
    if job.config.sparsify != RECOVERABLE:
        return model
    recovery = Recovery.from_state_dict(load_checkpoint(run.checkpoint("recovery")))
    return SparseNetwork(model, masks_over(model, job.config), recovery).exported


def _train(job: Job, run: RunFolder, way: Way, attempt: int) -> None:
    path = run.checkpoint(f"finetune-{attempt}")
    saved: Any = load_checkpoint(path) if path.exists() else {"training": None, "way": None}
    start = None if saved["training"] is None else TrainState.from_tree(saved["training"])

    def on_start(_: nn.Module, optimizer: Optimizer) -> None:
        way.start(optimizer, saved["way"])

    def after_epoch(state: TrainState) -> None:
        event = {"attempt": attempt, **state.history[-1]}
        if way.exploring:
            del event["metric"]  # of the dense network
        run.epoch_event("epoch", **event)
        save_checkpoint(path, {"training": state.to_tree(), "way": way.state_dict()})

    with job.progress.bar(f"fine-tune, {job.config.sparsify}") as advance:
        hooks = Hooks(
            on_start=on_start,
            on_step=lambda *_: way.step(),
            on_epoch=after_epoch,
            on_progress=lambda p: advance(p.step, p.steps, f"loss {p.loss:.3f}"),
        )
        settings = job.training(epochs=job.config.epochs)
        train(way.model, job.data, way.task, settings, teacher=job.teacher, hooks=hooks, start=start)


def _pruned(job: Job, trained: nn.Module, density: float) -> tuple[SparseNetwork, dict[str, Any]]:
    """The network of the end; with recovery, how accurate it is with and without."""
    total = masks_over(trained, job.config).total
    if job.config.sparsify != RECOVERABLE:
        return thinned(trained, total, job.config), {}
    network = thinned(trained, weights_at(total, density), job.config)
    without = thinned(trained, weights_at(total, density), job.config)
    without.masks.apply()
    scores = [_recalibrated_accuracy(job, one.model) for one in (without, network)]
    return network, {"accuracy_before_recovery": scores[0], "accuracy_after_recovery": scores[1]}


def _recalibrated_accuracy(job: Job, model: nn.Module) -> float:
    recalibrate_batchnorm(model, job.data, job.task, config=job.training(epochs=job.config.epochs))
    return evaluate_model(model, job.data, job.task)
