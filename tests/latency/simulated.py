"""A device that can be asked anything: kernels with true times of their own, seen through a profiler that adds to them.

Its truth is taken from the graph of each model that it is visited with; nothing of hwprune is in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from hwprune.errors import MeasurementError
from hwprune.targets.connection import ANCHOR, NULL, Connection, Visit
from hwprune.targets.connection._base import INSTRUMENTED

from .fakes import DEVICE, statistics

NULL_MS, TYPICAL_MS = 0.02, 0.1
NO_KERNEL = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "Shape"}
WEIGHTY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
CACHE = 60_000  # weights beyond which a kernel is a quarter slower


@dataclass
class Kernel:
    """What runs as one: the node it is named after, and those that joined it."""

    op: str
    covers: list[str]
    ms: float
    chain: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What stands between the truth and who measures.

    Attributes:
        bias_ms: by how much the profiler lengthens each kernel.
        stretch: what else it does to them, as a factor.
        noise: of every time, as a part of it; it only lengthens.
        drift: how far the speed goes from its middle, as a part of it, from one visit to the next.
        disturbed: part of the rounds that something else lengthens, by a third.
        other_cpus: processors that others keep busy.
    """

    bias_ms: float = 0.004
    stretch: float = 1.06
    noise: float = 0.005
    drift: float = 0.05
    disturbed: float = 0.2
    other_cpus: float | None = None


@dataclass(frozen=True)
class Physics:
    """How fast a device is, and what it does.

    Attributes:
        block: channels are rounded up to it.
        joins: operators that run inside the kernel of a convolution: one ``Add``, then one of the others.
        reorders: the image is brought into another layout before the first convolution, what the last convolution
            writes back out of it.
        lost_ms: a kernel that belongs to nothing.
        bend: every kernel is slower by the size of the whole network to this power.
    """

    block: int = 16
    joins: frozenset[str] = frozenset({"Add", "Relu", "Clip", "HardSwish"})
    reorders: bool = True
    lost_ms: float = 0.0
    bend: float = 0.0

    def kernels(self, model: bytes) -> list[Kernel]:
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
        shapes = {
            port.name: [dim.dim_value for dim in port.type.tensor_type.shape.dim]
            for port in (*graph.input, *graph.value_info, *graph.output)
        }
        weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        readers = [value for node in graph.node for value in node.input] + [port.name for port in graph.output]
        home: dict[str, Kernel] = {}  # value → the kernel that writes it
        found: list[Kernel] = []
        for node in graph.node:
            if node.op_type in NO_KERNEL:
                continue
            activations = [value for value in node.input if value not in weights and value]
            host = self._host(node, activations, shapes, home, readers)
            if host is None:
                host = Kernel(node.op_type, [], self._milliseconds(node, activations, shapes, weights))
                if self.reorders and node.op_type == "Conv" and activations[0] == graph.input[0].name:
                    found.append(Kernel("Reorder", [], 1e-6 * math.prod(shapes[activations[0]])))
                found.append(host)
            else:
                host.chain.append(node.op_type)
                host.ms += 2e-8 * math.prod(self._rounded(shapes[node.output[0]]))
            host.covers.append(node.output[0])
            home.update(dict.fromkeys(node.output, host))
        return self._with_extras(found)

    def _with_extras(self, found: list[Kernel]) -> list[Kernel]:
        last = max((index for index, kernel in enumerate(found) if kernel.op == "Conv"), default=None)
        if self.reorders and last is not None:
            found.insert(last + 1, Kernel("Reorder", found[last].covers[-1:], 0.1 * found[last].ms))
        if self.lost_ms:
            found.append(Kernel("Copy", ["nothing of ours"], self.lost_ms))
        slower = (sum(kernel.ms for kernel in found) / TYPICAL_MS) ** self.bend
        for kernel in found:
            kernel.ms *= slower
        return found

    def _host(
        self, node: onnx.NodeProto, activations: list[str], shapes: Any, home: dict[str, Kernel], readers: list[str]
    ) -> Kernel | None:
        if node.op_type not in self.joins or any(shapes[v] != shapes[node.output[0]] for v in activations):
            return None
        for value in reversed(activations):
            kernel = home.get(value)
            taken = {"Add": kernel.chain, "other": [op for op in kernel.chain if op != "Add"]} if kernel else {}
            free = kernel is not None and not taken["Add" if node.op_type == "Add" else "other"]
            if kernel is not None and kernel.op == "Conv" and readers.count(value) == 1 and free:
                return kernel
        return None

    def _rounded(self, shape: list[int]) -> list[int]:
        """A shape with its channels as the device holds them; those of an image are few and stay."""
        if len(shape) < 2 or shape[1] <= 4:
            return shape
        return [shape[0], math.ceil(shape[1] / self.block) * self.block, *shape[2:]]

    def _milliseconds(self, node: onnx.NodeProto, activations: list[str], shapes: Any, weights: Any) -> float:
        read = sum(math.prod(self._rounded(shapes[value])) for value in activations)
        written = sum(math.prod(self._rounded(shapes[value])) for value in node.output if value in shapes)
        ms = 0.002 + 1e-7 * (read + written)
        kernels = [weights[value] for value in node.input if len(weights.get(value, ())) > 1]
        if node.op_type not in WEIGHTY or not kernels:
            return ms + 3e-7 * written
        group = next((one.i for one in node.attribute if one.name == "group"), 1)
        outputs = self._rounded(shapes[node.output[0]])
        inputs = self._rounded(shapes[activations[0]])[1 if len(shapes[activations[0]]) == 4 else -1]
        window = math.prod(kernels[0][2:])
        count = window * inputs * outputs[1] // group
        return ms + 1e-8 * count * math.prod(outputs[2:]) * (1.25 if count > CACHE else 1.0)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - lives as long as the tests
    def cached(self, model: bytes) -> tuple[Kernel, ...]:
        return tuple(self.kernels(model))

    def latency_ms(self, model: bytes) -> float:
        """The truth, end to end."""
        return NULL_MS + sum(kernel.ms for kernel in self.cached(model))


class SimulatedDevice(Connection):
    """A device behind a profiler, whose speed drifts, and which something else disturbs now and then.

    Args:
        physics: what is true.
        null: a model that does nothing.
        anchor: a model that is always the same.
        noise: what stands before it.
        kernels: whether the runtime tells what its kernels take.
        busy_after: visits that are made before the device becomes too busy.
        seed: of noise and drift.
    """

    def __init__(
        self,
        physics: Physics,
        *,
        null: bytes,
        anchor: bytes,
        noise: Noise | None = None,
        kernels: bool = True,
        busy_after: int | None = None,
        seed: int = 0,
    ) -> None:
        self.physics, self._fixed = physics, {NULL: null, ANCHOR: anchor}
        self._noise, self._kernels = noise or Noise(), kernels
        self._busy_after, self._seed = busy_after, seed
        self.visits: list[Visit] = []

    def fingerprint(self) -> dict[str, Any]:
        return DEVICE

    def run(self, visits: Iterable[Visit]) -> Iterator[dict[str, Any]]:
        for visit in visits:
            if len(self.visits) == self._busy_after:
                raise MeasurementError(
                    f"measuring {visit.id}: 7% of the samples were clean", hint="stop what else runs"
                )
            self.visits.append(visit)
            yield self.reply(visit)

    def reply(self, visit: Visit) -> dict[str, Any]:
        """Depends on the visit and the seed alone."""
        rng = np.random.default_rng([self._seed, *visit.id.encode()])
        speed = 1 + self._noise.drift * rng.uniform(-1, 1)
        candidates = {}
        timed = {f"{name}{INSTRUMENTED}": visit.models[name] for name in visit.instrumented}
        for name, model in {**visit.models, **self._fixed, **timed}.items():
            ms = speed * (NULL_MS if name == NULL else self.physics.latency_ms(model))
            rounds = ms * (1 + self._noise.noise * np.abs(rng.standard_normal(visit.rounds)))
            rounds *= np.where(rng.random(visit.rounds) < self._noise.disturbed, 4 / 3, 1.0)
            candidates[name] = statistics(rounds.tolist(), iqr_ms=0.0)
        assert self._kernels or not visit.instrumented
        return {
            "id": visit.id,
            "candidates": candidates,
            "kernels": {name: self._seen(visit.models[name], speed, rng) for name in visit.instrumented},
            "clock": "perf_counter_ns",
            "contention": {
                "clean_fraction": 0.99,
                "psi_some_avg10": 0.5,
                "load1": 1.0,
                "other_cpus": self._noise.other_cpus,
                "involuntary_switches": 1,
            },
        }

    def _seen(self, model: bytes, speed: float, rng: np.random.Generator) -> list[dict[str, Any]]:
        listed = []
        for kernel in self.physics.cached(model):
            ms = speed * (kernel.ms * self._noise.stretch + self._noise.bias_ms)
            ms *= 1 + self._noise.noise * abs(rng.standard_normal())
            listed.append({"covers": kernel.covers, "op": kernel.op, "p50_ms": ms, "iqr_ms": 0.0, "repeats": 18})
        return listed
