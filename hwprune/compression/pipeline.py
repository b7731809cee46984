"""The whole road: a trained model and a budget in, a verified bundle inside the budget out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hwprune.budget import Plan
from hwprune.compression import stages
from hwprune.compression.config import CompressConfig, read_config
from hwprune.compression.delivery import WINDOW, deliver, measure_delivery
from hwprune.compression.folder import RunFolder, cannot_write
from hwprune.compression.job import Job, prepare
from hwprune.compression.progress import Progress
from hwprune.compression.sparse import check_trainable, keep_whole
from hwprune.errors import InputError
from hwprune.latency import LatencyTable
from hwprune.training import Data, load_checkpoint, save_checkpoint

ATTEMPTS = 3


@dataclass(frozen=True)
class Run:
    """A finished compression.

    Attributes:
        path: its folder.
        plan: which channels stayed.
        document: ``run.json``.
    """

    path: Path
    plan: Plan
    document: dict[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        """The numbers, under the keys that ``compress --json`` prints."""
        result = self.document["result"]
        assert isinstance(result, dict)
        return result

    @property
    def bundle(self) -> Path:
        """The folder to deploy."""
        return self.path / "bundle"

    @property
    def budget_met(self) -> bool | None:
        """Whether the exported engine measured inside the budget; None if it could not be measured."""
        met = self.result["budget_met"]
        return met if met is None else bool(met)


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """Things that are at hand already, instead of being named in the configuration."""

    model: nn.Module | None = None
    data: Data | None = None
    table: LatencyTable | None = None


def compress(
    config: CompressConfig,
    *,
    given: InMemory | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Compress a model to a budget and export it.

    Args:
        config: what to compress, to what budget, for what device, and how.
        given: a model, data sets or a table in memory; they replace what ``config`` names.
        resume: continue the run in ``config.output`` where it stopped.
        progress: where to say what is going on; silent if absent.

    Returns:
        The finished run. Its folder holds the bundle, the plan, the weights, the history and the report.

    Raises:
        InputError: anything wrong with what was given; a fresh run leaves nothing behind.
        MeasurementError: the device was too busy to be measured.
    """
    progress, given = progress or Progress(quiet=True), given or InMemory()
    if not resume:
        RunFolder.check_free(config.output)
        job = _prepare(config, progress, given)
        run = RunFolder.create(config.output, config.resolved())
        with run.lock():
            return _guarded(job, run, fresh=True)
    with RunFolder.load(config.output).lock():
        run = RunFolder.load(config.output)  # again: now nobody else writes to it
        if run.document["status"] == "done":
            run.drop_checkpoints()
            return _finished(run)
        _check_same(config, run)
        return _guarded(_prepare(config, progress, given, run), run, fresh=False)


def _guarded(job: Job, run: RunFolder, *, fresh: bool) -> Run:
    """Run; a fresh run that fails before anything worth keeping was made leaves no folder behind."""
    try:
        run.tidy()
        return _run(job, run)
    except (InputError, OSError) as error:
        if fresh and run.stage("explore") is None and not any((run.path / "checkpoints").iterdir()):
            shutil.rmtree(run.path)
        if isinstance(error, OSError):
            raise cannot_write(run.path, error) from error
        raise


def _check_same(config: CompressConfig, run: RunFolder) -> None:
    """Refuse to continue with other settings than the run was started with."""
    # Where files lie may be written differently; their content was taken into the run.
    free = ("output", "weights", "table")
    now = config.resolved()
    differing = [
        f"{name} {run.config.get(name)!r} (now {value!r})"
        for name, value in now.items()
        if name not in free and value != run.config.get(name)
    ]
    if differing:
        raise InputError(
            f"the run in {run.path} was started with {', '.join(differing)}",
            hint="resume with the same settings, or start another run in a new folder",
        )


def resumed_config(output: Path) -> CompressConfig:
    """The configuration of the run in a folder.

    Raises:
        InputError: there is no run.
    """
    return read_config({**RunFolder.load(output).config, "output": output})


def _prepare(config: CompressConfig, progress: Progress, given: InMemory, run: RunFolder | None = None) -> Job:
    """Load everything; what an interrupted run has taken in already comes from there."""
    state, table = None, given.table
    if run is not None and (run.path / "dense.safetensors").exists():
        state = load_checkpoint(run.path / "dense.safetensors")
    if run is not None and (run.stage("latency_table") or {}).get("file"):
        table = LatencyTable.load(run.path / "table.json")
    job = prepare(config, progress, model=given.model, data=given.data, table=table, state=state)
    check_trainable(job)
    return job


def _run(job: Job, run: RunFolder) -> Run:
    if not (run.path / "dense.safetensors").exists():
        save_checkpoint(run.path / "dense.safetensors", job.model.state_dict())
    for name in ("baseline", "latency_table", "reach", "explore") if job.cuts else ("baseline", "latency_table"):
        if run.stage(name) is None:
            run.finish_stage(name, getattr(stages, name)(job, run))
    for attempt in range(int(run.document.get("attempt", 0)), ATTEMPTS):
        _attempt(job, run, attempt)
        if not _correct_from_delivery(job, run) or attempt == ATTEMPTS - 1:
            break
        job.progress.say("the delivered engine is outside the budget's window: solving again with what it measured")
        for name in ("settle", "finetune", "artifact", "measured"):
            run.document["stages"].pop(name)
        run.document["attempt"] = attempt + 1
        run.save()
    deliver(job, run)
    run.finish()
    return _finished(run)


def _attempt(job: Job, run: RunFolder, attempt: int) -> None:
    if run.stage("settle") is None:
        run.finish_stage("settle", (stages.settle if job.cuts else keep_whole)(job, run))
    if run.stage("finetune") is None:
        run.finish_stage("finetune", stages.finetune(job, run, attempt))
    if run.stage("artifact") is None:
        run.finish_stage("artifact", stages.artifact(job, run))
    if run.stage("measured") is None:
        run.finish_stage("measured", measure_delivery(job, run))


def _correct_from_delivery(job: Job, run: RunFolder) -> bool:
    """Take the delivered engine's own measurement as a trial; whether another attempt is called for."""
    measured, settled = run.stage("measured"), run.stage("settle")
    value = measured.get("value")
    if value is None or not job.cuts or not run.stage("reach")["trials"][1:]:
        return False
    used = value / measured["limit"]
    if WINDOW.holds(used) or (used <= 1 and not settled["inside"]):
        return False  # inside, or as close below as the widths on offer allow
    plan = Plan.load(run.path / "plan.json")
    # Trials refer to the dense latency of the start; the delivery to that of its own rounds.
    seen = used * run.stage("reach")["limit"]
    trials = [t for t in settled["trials"] if t["widths"] != plan.widths]
    trials.append({"widths": plan.widths, "predicted": settled["predicted_by_table"], "measured": seen})
    run.document["stages"]["reach"]["trials"] = trials
    return True


def _finished(run: RunFolder) -> Run:
    return Run(path=run.path, plan=Plan.load(run.path / "plan.json"), document=run.document)
