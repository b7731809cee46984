"""The whole road: a trained model and a budget in, a verified bundle inside the budget out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from hwprune.budget import Plan
from hwprune.compression import stages
from hwprune.compression.config import CompressConfig, read_config
from hwprune.compression.delivery import WINDOW, deliver, measure_delivery
from hwprune.compression.folder import RunFolder, cannot_write
from hwprune.compression.job import Job, prepare
from hwprune.compression.progress import Progress
from hwprune.compression.sparse import check_trainable, keep_whole
from hwprune.errors import ElsewhereError, InputError
from hwprune.latency import LatencyTable
from hwprune.training import Data, launched, load_checkpoint, processes, save_checkpoint

ATTEMPTS = 3
TOGETHER = ("explore", "finetune")  # stages that train: all processes work; the rest is done by the first
T = TypeVar("T")


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

    @property
    def gates_met(self) -> bool:
        """Whether the engine is no worse than the gates of accuracy allow; true without any."""
        gates = self.result.get("gates")
        return gates is None or bool(gates["met"])

    @property
    def kept_promises(self) -> bool:
        """Whether nothing that was asked for is known to be missed."""
        return self.budget_met is not False and self.gates_met


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

    Started by torchrun, all processes load the model and the data and train together; the first one traces, measures,
    decides, exports, and alone reads and writes the folder. All return the same run.

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
        ElsewhereError: another process failed.
    """
    progress, given = progress or Progress(quiet=True), given or InMemory()
    with launched() as here:
        if resume:
            return _resume(config, progress, given)
        here.from_first(lambda: RunFolder.check_free(config.output))
        job = _prepare(config, progress, given)
        run = here.from_first(lambda: RunFolder.create(config.output, config.resolved()))
        with run.lock():
            return _guarded(job, run, fresh=True)


def _resume(config: CompressConfig, progress: Progress, given: InMemory) -> Run:
    with _load(config.output).lock():
        run = _load(config.output)  # again: now nobody else writes to it
        if run.document["status"] == "done":
            run.drop_checkpoints()
            return _finished(run)
        _check_same(config, run)
        return _guarded(_prepare(config, progress, given, run), run, fresh=False)


def _load(output: Path) -> RunFolder:
    return processes().from_first(lambda: RunFolder.load(output))


def _guarded(job: Job, run: RunFolder, *, fresh: bool) -> Run:
    """Run; a fresh run that fails before anything worth keeping was made leaves no folder behind."""
    try:
        with launched():
            run.tidy()
            return _run(job, run)
    except (InputError, OSError, ElsewhereError) as error:
        bad_input = isinstance(error.error if isinstance(error, ElsewhereError) else error, InputError | OSError)
        if bad_input and fresh and processes().first and _is_bare(run):
            shutil.rmtree(run.path)
        if isinstance(error, OSError):
            raise cannot_write(run.path, error) from error
        raise


def _is_bare(run: RunFolder) -> bool:
    return run.stage("explore") is None and not any((run.path / "checkpoints").iterdir())


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
    return read_config({**_load(output).config, "output": output})


def _prepare(config: CompressConfig, progress: Progress, given: InMemory, run: RunFolder | None = None) -> Job:
    """Load everything; what an interrupted run has taken in already comes from there."""
    state, table = None, given.table
    if run is not None:
        state, table = processes().from_first(lambda: _taken_in(run, table))
    job = prepare(config, progress, model=given.model, data=given.data, table=table, state=state)
    check_trainable(job)
    return job


def _taken_in(run: RunFolder, table: LatencyTable | None) -> tuple[dict[str, Tensor] | None, LatencyTable | None]:
    path = run.path / "dense.safetensors"
    if (run.stage("latency_table") or {}).get("file"):
        table = LatencyTable.load(run.path / "table.json")
    return load_checkpoint(path) if path.exists() else None, table


def _run(job: Job, run: RunFolder) -> Run:
    _by_first(run, lambda: _take_in(job, run))
    for name in ("baseline", "latency_table", *(("reach", "explore") if job.cuts else ())):
        _stage(run, name, partial(getattr(stages, name), job, run))
    for attempt in range(int(run.document.get("attempt", 0)), ATTEMPTS):
        _attempt(job, run, attempt)
        if not _by_first(run, lambda: _correct_from_delivery(job, run)) or attempt == ATTEMPTS - 1:
            break
        job.progress.say("the delivered engine is outside the budget's window: solving again with what it measured")
        for name in ("settle", "finetune", "artifact", "measured"):
            run.document["stages"].pop(name)
        run.document["attempt"] = attempt + 1
        run.save()
    _by_first(run, lambda: deliver(job, run))
    run.finish()
    return _finished(run)


def _take_in(job: Job, run: RunFolder) -> None:
    if not (run.path / "dense.safetensors").exists():
        save_checkpoint(run.path / "dense.safetensors", job.model.state_dict())


def _attempt(job: Job, run: RunFolder, attempt: int) -> None:
    _stage(run, "settle", lambda: (stages.settle if job.cuts else keep_whole)(job, run))
    _stage(run, "finetune", lambda: stages.finetune(job, run, attempt))
    _stage(run, "artifact", lambda: stages.artifact(job, run))
    _stage(run, "measured", lambda: measure_delivery(job, run))


def _stage(run: RunFolder, name: str, work: Callable[[], Any]) -> None:
    """Do and record what is not done yet."""
    if run.stage(name) is None:
        here = processes()
        run.finish_stage(name, here.broadcast(work()) if name in TOGETHER else here.from_first(work))


def _by_first(run: RunFolder, work: Callable[[], T]) -> T:
    """Work that changes the run's document: done by the first process, known to all."""
    result, run.document = processes().from_first(lambda: (work(), run.document))
    return result


def _correct_from_delivery(job: Job, run: RunFolder) -> bool:
    """Take the delivered engine's own measurement as a trial; whether another attempt is called for."""
    measured, settled = run.stage("measured"), run.stage("settle")
    value = measured.get("value")
    if value is None or not job.cuts or not run.stage("reach")["trials"][1:]:
        return False
    used = value / measured["limit"]
    if WINDOW.holds(used) or (used <= 1 and not settled["inside"]):
        return False  # inside, or as close below as the widths on offer allow
    plan = run.plan()
    # Trials refer to the dense latency of the start; the delivery to that of its own rounds.
    seen = used * run.stage("reach")["limit"]
    trials = [t for t in settled["trials"] if t["widths"] != plan.widths]
    trials.append({"widths": plan.widths, "predicted": settled["predicted_by_table"], "measured": seen})
    run.document["stages"]["reach"]["trials"] = trials
    return True


def _finished(run: RunFolder) -> Run:
    return Run(path=run.path, plan=run.plan(), document=run.document)
