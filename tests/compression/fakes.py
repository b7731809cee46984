"""A made-up device, an exporter that remembers, and ways to be stopped; imports nothing of the tests."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
from torch import nn

from hwprune import device_runner
from hwprune.compression import CompressConfig, gauge, sparse, stages, stored_file
from hwprune.deploy import export_onnx
from hwprune.deploy.export import OnnxInfo
from hwprune.engines import onnxruntime_engine
from hwprune.files import write_atomic
from hwprune.network.forward import Example, shapes_of
from hwprune.report import page

TINY = Path(__file__).parent / "tiny.py"


def config(output: Path, **changes: Any) -> CompressConfig:
    """A compression that takes under a second of training."""
    settings: dict[str, Any] = {
        "model": f"{TINY}:build",
        "data": f"{TINY}:data",
        "input_shape": (1, 1, 6, 6),
        "output": output,
        "prune_steps": 4,
        "prune_epochs": 2,
        "epochs": 2,
        "batch_size": 12,
        "learning_rate": 0.02,
        "distill": 0.3,
        "accelerator": "cpu",
        "channel_step": 4,
        "table_method": "alone",
    }
    return CompressConfig(**{**settings, **changes})


class RememberingExport:
    """The exporter takes seconds and is deterministic: what it made once is taken from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, model: nn.Module, example: Example, path: Path) -> OnnxInfo:
        digest = hashlib.sha256(shapes_of(example).encode())
        for name, value in model.state_dict().items():
            digest.update(f"{name}{tuple(value.shape)}".encode() + value.numpy().tobytes())
        kept, facts = (self.folder / f"{digest.hexdigest()}.{end}" for end in ("onnx", "json"))
        if not facts.exists():
            info = export_onnx(model, example, kept)
            facts.write_text(json.dumps([info.size_bytes, info.opset, info.inputs, info.outputs]))
        size, opset, inputs, outputs = json.loads(facts.read_text())
        write_atomic(path, kept.read_bytes())
        return OnnxInfo(path=path, size_bytes=size, opset=opset, inputs=tuple(inputs), outputs=tuple(outputs))


class Call:
    """The call to time of an engine, which knows the graph it runs."""

    def __init__(self, model: bytes | str) -> None:
        self.graph = (onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)).graph

    def __call__(self) -> None:
        raise AssertionError("a made-up clock calls nothing")

    def milliseconds(self) -> float:
        """A staircase of four channels over the weights, and something for every node."""
        return sum(kernel["runs_ms"][0] for kernel in self.kernels())

    def kernels(self) -> list[dict[str, Any]]:
        """One for every node, as an engine tells them."""
        weights = {tensor.name: tensor.dims for tensor in self.graph.initializer if len(tensor.dims) >= 2}
        found = []
        for node in self.graph.node:
            read = [math.prod(4 * math.ceil(size / 4) for size in weights[v]) for v in node.input if v in weights]
            found.append({"covers": [node.name], "op": node.op_type, "runs_ms": [0.02 + 1e-4 * sum(read)] * 20})
        return found


Clock = Callable[..., dict[str, Any]]


def clock(bias: Callable[[str], float] = lambda name: 1.0) -> Clock:
    """Stands in for ``device_runner.measure``.

    Args:
        bias: of a candidate's name: a factor on its time.
    """

    def measure(calls: dict[str, Call], **settings: Any) -> dict[str, Any]:
        candidates = {}
        for name, call in calls.items():
            ms = call.milliseconds() * bias(name)
            candidates[name] = {
                **{field: ms for field in ("p50_ms", "p90_ms", "min_ms", "cpu_p50_ms")},
                "iqr_ms": 0.0,
                "repeats": 80,
                "clean": 80,
                "rounds_ms": [ms] * 10,
            }
        return {"candidates": candidates, "clock": "perf_counter_ns", "contention": {"clean_fraction": 1.0}}

    return measure


def slow_when_delivered(run: Path, factor: float, *, attempts: int = 1) -> Clock:
    """Engines that are delivered in the first attempts measure slower than they did in the closed loop."""

    def bias(name: str) -> float:
        document = json.loads((run / "run.json").read_text())
        delivered = "artifact" in document["stages"] and document.get("attempt", 0) < attempts
        return factor if name.startswith("candidate") and delivered else 1.0

    return clock(bias)


def made_up_device(exports: Path, measure: Clock) -> list[Any]:
    """Patches, to be entered: the remembering exporter, the clock, engines whose call knows its graph; no figures."""
    engine, export = onnxruntime_engine.Engine, RememberingExport(exports)
    begin = engine.__init__

    def init(self: Any, model: bytes | str, **settings: Any) -> None:
        begin(self, model, **settings)
        self.model = model

    return [
        *(mock.patch.object(place, "export_onnx", export) for place in (stages, gauge, sparse, stored_file)),
        mock.patch.object(engine, "__init__", init),
        mock.patch.object(engine, "bind", lambda self, feeds: Call(self.model)),
        mock.patch.object(engine, "kernels", lambda self: Call(self.model).kernels()),
        mock.patch.object(device_runner, "measure", measure),
        mock.patch.object(page, "html_report", return_value="<p>not drawn</p>"),  # takes half a second
    ]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


class Writes:
    """Counts files that appear in a run, and does something just before or after one of them does.

    Files of engines on trial lie elsewhere and do not count.
    """

    def __init__(self, run: Path, act: Callable[[], None], *, at: int = -1, after: bool = True) -> None:
        self.run, self.act, self.at, self.after = run, act, at, after
        self.names: list[str] = []
        self._replace = os.replace

    def __call__(self, source: Any, destination: Any) -> None:
        if not Path(destination).is_relative_to(self.run):
            self._replace(source, destination)
            return
        self.names.append(Path(destination).name)
        due = len(self.names) == self.at
        if due and not self.after:
            self.act()
        self._replace(source, destination)
        if due and self.after:
            self.act()

    def armed(self) -> Any:
        return mock.patch.object(os, "replace", self)


def outcome(run: Path) -> dict[str, Any]:
    """What must not depend on interruptions: everything but times of day and durations."""
    document, plan = json.loads((run / "run.json").read_text()), json.loads((run / "plan.json").read_text())
    del plan["solve_s"]
    weights, engine = (run / "model.safetensors").read_bytes(), (run / "model.onnx").read_bytes()
    result = {key: value for key, value in document["result"].items() if key != "bundle"}
    return {
        "plan": plan,
        "weights": hashlib.sha256(weights).hexdigest(),
        "engine": hashlib.sha256(engine).hexdigest(),
        "result": result,
        "stages": document["stages"],
        "status": document["status"],
    }


def half_written(run: Path) -> list[str]:
    """Files that no finished run may hold."""
    found = [str(path.relative_to(run)) for path in run.rglob("*") if path.name.endswith((".tmp", ".partial", ".old"))]
    with suppress(FileNotFoundError):
        found += [str(path) for path in (run / "checkpoints").iterdir()]
    return found
