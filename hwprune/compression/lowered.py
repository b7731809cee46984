"""The compressed network in its target's precision, and what its engine loses against the network that was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from hwprune.compression.job import Job
from hwprune.deploy import Parity, compare
from hwprune.deploy.accuracy import Gates, Judge
from hwprune.deploy.departure import check_parity
from hwprune.deploy.engine import Engine
from hwprune.deploy.forms import PARITY_SAMPLES, Asked, Source, calibration_of, lowered_to
from hwprune.files import write_atomic

FLOAT = "fp32"


def gates_of(job: Job) -> Gates:
    """How much worse than the network that was given the engine may be."""
    settings = job.config
    return Gates(max_degradation=settings.max_degradation, percent_max_degradation=settings.percent_max_degradation)


def lower_file(job: Job, model: nn.Module, path: Path) -> dict[str, Any]:
    """Rewrite an exported network in the target's precision, and say how that was done.

    The file in float32 must pass the gate of parity before. How many nodes of int8 stay in float32 is decided by what
    is lost against ``model``, for what pruning has lost is not theirs to mend.

    Args:
        job: gives target, data and gates.
        model: the network that was exported.
        path: its ONNX file; one in float32 stays as it is.
    """
    if job.target.precision == FLOAT:
        return {"precision": None}
    if job.measurable:
        checked_parity(replace_precision(job, FLOAT), model, path)
    asked = Asked(gates=gates_of(job), samples=job.config.calibration_samples, seed=job.config.seed)
    exported = path.read_bytes()
    source = Source(model=model, example=job.example, data=job.data, task=job.task)
    judge = Judge(model, job.data, job.task) if job.measurable else None
    made = lowered_to(exported, job.target, calibration_of(exported, source, job.target, asked), judge, asked)
    write_atomic(path, made.content)
    return {"precision": {"chosen": job.target.precision, **made.to_dict()}}


def replace_precision(job: Job, precision: str) -> Job:
    """The same job for engines of another precision."""
    return replace(job, target=replace(job.target, precision=precision))


def checked_parity(job: Job, model: nn.Module, path: Path, *, rounded: bool = False) -> tuple[Engine, Parity]:
    """Open an engine and hold it against the model; where it is rounded, accuracy has to tell.

    Raises:
        ParityError: it does not compute what the model computes; says which layer departs first.
    """
    precision = job.target.precision
    engine = job.runtime.open(path, job.target)
    parity = compare(model, engine, job.validation_inputs(PARITY_SAMPLES), precision=precision)
    if not rounded and precision != "int8":
        check_parity(parity, precision, model=model, example=job.example, content=path.read_bytes())
    return engine, parity
