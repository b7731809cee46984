"""Fine-tuning that makes single weights zero, and what is done so that the network is as sparse as was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hwprune.budget import Plan, spell
from hwprune.compression.folder import RunFolder
from hwprune.compression.job import Job
from hwprune.compression.mask_updates import note_weights
from hwprune.compression.sparse_network import RECOVERABLE, SparseNetwork, masks_over, thinned
from hwprune.compression.sparse_settings import NOTHING
from hwprune.compression.sparse_ways import Way, way_for
from hwprune.compression.stored_file import most_inside, stored_bytes
from hwprune.deploy import export_onnx, pack, unpack
from hwprune.files import write_atomic
from hwprune.regrow import Recovery
from hwprune.regrow.distribution import weights_at
from hwprune.training import (
    Hooks,
    TrainState,
    evaluate_model,
    processes,
    recalibrate_batchnorm,
    train,
)

ROUNDS = 5  # of fitting a file into its budget
ANY_DENSITY = 0.01  # stands for one that a budget of bytes gives later


def check_trainable(job: Job) -> None:
    """Refuse, before anything is written, what the rule would refuse when it is to start.

    Raises:
        InputError: the training is too short for the rule, or the density out of its range.
        ModelError: the model has nothing that the rule can mask.
    """
    if job.config.sparsify != NOTHING:
        masks_over(job.model, job.config)
        way_for(job, job.model, job.config.density or ANY_DENSITY, RunFolder(job.config.output))


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
    limit, settings = _limit(job, run), job.config
    density = settings.density if limit is None else _density_for(job, run, model, limit, attempt)
    assert density is not None, "checked with the settings"
    way = way_for(job, model, density, run)
    train_by(job, run, way, attempt)
    note_weights(run, way.updates)

    def finished() -> dict[str, Any]:
        network, record = _pruned(job, way.trained(), density, limit)
        run.keep("finetuned", network.model.state_dict())
        run.keep("recovery", None if network.recovery is None else network.recovery.state_dict())
        return {**network.facts(), **record}

    return processes().from_first(finished)


def as_exported(job: Job, candidate: nn.Module) -> nn.Module:
    """A network of the closed loop in the form in which it will be exported: means of filters take time and memory."""
    if job.config.sparsify != RECOVERABLE or job.budget.metric == "macs":
        return candidate
    some = masks_over(candidate, job.config).total // 2
    return thinned(candidate, some, job.config).exported


def store(job: Job, run: RunFolder, model: nn.Module) -> dict[str, Any]:
    """Export a fine-tuned network with zeros where it was pruned, pack it, and write what comes out again.

    ``model.onnx`` is the engine with its weights as stored. The one that was exported lies with the checkpoints, until
    the bundle is written from it.
    """
    storage, saved = job.config.stored_as, run.kept("recovery")
    recovery = None if saved is None else Recovery.from_state_dict(saved)
    network = SparseNetwork(model, masks_over(model, job.config), recovery)
    export_onnx(network.exported, job.example, exported_file(run))
    packed = pack(exported_file(run), storage)
    engine = unpack(packed)
    write_atomic(run.path / "model.onnx", engine)
    dense = len(pack(run.path / "baseline.onnx", storage))
    sizes = {"size_bytes": len(engine), "stored_bytes": len(packed), "dense_stored_bytes": dense}
    return {**sizes, "storage": str(storage)}


def exported_file(run: RunFolder) -> Path:
    """Where a sparse engine lies as it was exported, its weights not rounded yet."""
    return run.path / "checkpoints" / "exported.onnx"


def _limit(job: Job, run: RunFolder) -> float | None:
    """Bytes that the stored file may take; a factor is one on the dense network's exported file."""
    budget = job.config.file_budget
    return None if budget is None else budget.resolve(float(run.stage("baseline")["size_bytes"]))


def _density_for(job: Job, run: RunFolder, model: nn.Module, limit: float, attempt: int) -> float:
    """The density at which the largest weights of the network at hand take as many bytes as are allowed."""
    saved = run.kept(f"density-{attempt}", optional=True)
    if saved is None:
        job.progress.say(f"how many weights fit into {spell('size_bytes', limit)}: exporting and packing")
        total = masks_over(model, job.config).total
        saved = {"density": processes().from_first(lambda: _most(job, model, limit, total)) / total}
        run.keep(f"density-{attempt}", saved)
    density: float = saved["density"]
    job.progress.say(f"{density:.2%} of the weights stay")
    return density


def _most(job: Job, model: nn.Module, limit: float, count: int) -> int:
    return most_inside(lambda kept: stored_bytes(job, thinned(model, kept, job.config).exported), limit, count)


def train_by(job: Job, run: RunFolder, way: Way, attempt: int) -> None:
    """Fine-tune a network in some way, from the last epoch of this attempt that was kept.

    Args:
        job: gives data and settings.
        run: where epochs are noted and kept.
        way: has the network, and makes it sparse if that was asked for.
        attempt: of the closed loop.
    """
    saved = run.kept(f"finetune-{attempt}", optional=True) or {"training": None, "way": None}
    start = None if saved["training"] is None else TrainState.from_tree(saved["training"])

    def on_start(_: nn.Module, optimizer: Optimizer) -> None:
        way.start(optimizer, saved["way"])

    def after_epoch(state: TrainState) -> None:
        event = {"attempt": attempt, **state.history[-1]}
        if way.exploring:
            del event["metric"]  # of the dense network
        run.epoch_event("epoch", **event)
        run.keep(f"finetune-{attempt}", {"training": state.to_tree(), "way": way.state_dict()})

    rule = job.config.sparsify
    with job.progress.bar("fine-tune" if rule == NOTHING else f"fine-tune, {rule}") as advance:
        hooks = Hooks(
            on_start=on_start,
            on_step=lambda *_: way.step(),
            on_epoch=after_epoch,
            on_progress=lambda p: advance(p.step, p.steps, f"loss {p.loss:.3f}"),
        )
        settings = job.training(epochs=job.config.epochs)
        train(way.model, job.data, way.task, settings, teacher=job.teacher, hooks=hooks, start=start)


def _pruned(job: Job, trained: nn.Module, density: float, limit: float | None) -> tuple[SparseNetwork, dict[str, Any]]:
    """The network of the end, inside the file budget if there is one, and what was done for that."""
    total, recovers = masks_over(trained, job.config).total, job.config.sparsify == RECOVERABLE
    asked = weights_at(total, density) if recovers else total
    network = thinned(trained, asked, job.config)
    record: dict[str, Any] = {"limit": limit, "zeroed_to_fit": 0}
    before = sum(network.kept.values())
    if limit is not None:
        network = _fitted(job, trained, before, limit)
        record["zeroed_to_fit"] = before - sum(network.kept.values())
    elif recovers:
        _recalibrate(job, network.model)
    if recovers:
        without = thinned(trained, sum(network.kept.values()), job.config)
        without.masks.apply()
        _recalibrate(job, without.model)
        record["accuracy_before_recovery"] = evaluate_model(without.model, job.data, job.task)
        record["accuracy_after_recovery"] = evaluate_model(network.model, job.data, job.task)
    return network, record


def _fitted(job: Job, trained: nn.Module, count: int, limit: float) -> SparseNetwork:
    """The trained network, the smallest weights zero until its file is inside the budget.

    New statistics of batch norms are folded into the weights, which changes the bytes that a compression leaves; so the
    file is packed again, and where it became too large, the search aims lower.
    """
    aim = limit
    for _ in range(ROUNDS):
        kept = _most(job, trained, aim, count)
        network = thinned(trained, kept, job.config)
        if kept < count or network.recovery is not None:
            _recalibrate(job, network.model)
        over = stored_bytes(job, network.exported) - limit
        if over <= 0:
            break
        aim -= over + 1
    return network


def _recalibrate(job: Job, model: nn.Module) -> None:
    recalibrate_batchnorm(model, job.data, job.task, config=job.training(epochs=job.config.epochs))
