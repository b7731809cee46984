"""What a budget is held against: the exported engine's latency, its size, its memory, or its operations."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hwprune.compression.folder import RunFolder
from hwprune.compression.job import Job
from hwprune.deploy import export_onnx, measure_memory, measure_pair
from hwprune.deploy.lowering import lower_for_timing
from hwprune.network import trace
from hwprune.network.forward import Example
from hwprune.targets import Target


class Gauge(ABC):
    """Measures a candidate network in the unit of the budget."""

    @abstractmethod
    def measure(self, model: nn.Module) -> float:
        """Value of this network, as deployed.

        Args:
            model: a network cut from the dense one; its weights do not matter.
        """


@dataclass(frozen=True)
class LatencyGauge(Gauge):
    """Median latency in ms of the exported engine, normalised by the dense engine in the same rounds.

    The machine's speed drifts; the ratio to the dense engine, measured in turns with the candidate,
    does not. An absolute budget is held against the candidate's own milliseconds instead.

    Attributes:
        baseline: the dense network's engine file.
        baseline_ms: the dense engine's latency that the budget refers to; None for an absolute budget.
        example: one input batch.
        target: where it is measured.
    """

    baseline: Path
    baseline_ms: float | None
    example: Example
    target: Target

    def measure(self, model: nn.Module) -> float:
        """Export, open, and measure in turns with the dense engine."""
        with tempfile.TemporaryDirectory() as folder:
            candidate = Path(folder) / "candidate.onnx"
            export_onnx(model, self.example, candidate)
            lower_for_timing(candidate, self.target)
            pair = measure_pair(self.baseline, candidate, self.target, rounds=12)
        if self.baseline_ms is None:
            return pair.candidate.p50_ms
        return self.baseline_ms * pair.candidate.p50_ms / pair.baseline.p50_ms


@dataclass(frozen=True)
class SizeGauge(Gauge):
    """Bytes of the exported engine file."""

    example: Example
    target: Target

    def measure(self, model: nn.Module) -> float:
        """Fill with noise, export and weigh; the candidate is not used after that."""
        _fill_with_noise(model)
        with tempfile.TemporaryDirectory() as folder:
            candidate = Path(folder) / "candidate.onnx"
            export_onnx(model, self.example, candidate)
            lower_for_timing(candidate, self.target)
            return float(candidate.stat().st_size)


@dataclass(frozen=True)
class MemoryGauge(Gauge):
    """Bytes of memory that the exported engine takes while it runs, as the runtime's own allocator counts them.

    Attributes:
        example: one input batch.
        target: where it is measured.
        weights_in_flash: activations alone count.
    """

    example: Example
    target: Target
    weights_in_flash: bool

    def measure(self, model: nn.Module) -> float:
        """Fill with noise, export, run once, and read what was held; the candidate is not used after that."""
        _fill_with_noise(model)
        with tempfile.TemporaryDirectory() as folder:
            candidate = Path(folder) / "candidate.onnx"
            export_onnx(model, self.example, candidate)
            lower_for_timing(candidate, self.target)
            value = self.weigh(candidate)
        assert value is not None, "asked of a runtime that does not tell"
        return value

    def weigh(self, engine: Path) -> float | None:
        """Bytes of an engine file; None if the runtime does not tell."""
        memory = measure_memory(engine, self.target)
        if memory is None:
            return None
        return float(memory.activations if self.weights_in_flash else memory.total)


def _fill_with_noise(model: nn.Module) -> None:
    """Make no two tensors equal: equal ones are stored once, and a fresh network has many, a trained one none."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)


@dataclass(frozen=True)
class MacsGauge(Gauge):
    """Multiply-accumulates of the cut network, counted on a trace of it."""

    example: Example

    def measure(self, model: nn.Module) -> float:
        """Trace and count."""
        return float(sum(layer.macs for layer in trace(model, self.example, verify=False).layers))


def gauge(job: Job, run: RunFolder) -> Gauge:
    """What the closed loop measures candidates with."""
    if job.budget.metric == "size_bytes":
        return SizeGauge(job.example, job.target)
    if job.budget.metric == "memory_bytes":
        return memory_gauge(job)
    if job.budget.metric == "macs":
        return MacsGauge(job.example)
    dense_ms = run.stage("baseline")["latency"]["p50_ms"]
    return LatencyGauge(
        baseline=run.path / "baseline.onnx",
        baseline_ms=dense_ms if job.budget.relative else None,
        example=job.example,
        target=job.target,
    )


def memory_gauge(job: Job) -> MemoryGauge:
    """What memory is measured with."""
    return MemoryGauge(job.example, job.target, job.config.weights_in_flash)
