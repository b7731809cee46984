"""A float32 ONNX model in 8 or 16 bits, with what that hurts too much left as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hwprune.deploy.calibration import Calibration
from hwprune.deploy.half import LARGEST, emulated, halvable, halved
from hwprune.deploy.parity import RELATIVE_L2
from hwprune.deploy.quantization import Quantizer, made_up_feeds, quantised
from hwprune.deploy.sensitivity import Sensitivity, fewest, layer_of
from hwprune.deploy.values import outputs_on, relative_l2, values_on
from hwprune.files import write_atomic
from hwprune.targets import Target, runtime_for

Met = Callable[[bytes], bool]
HEADROOM = 2.0  # magnitudes on other inputs may be so much larger than on those of the calibration
ENOUGH = 0.5  # of what parity allows: the same on inputs that were not seen
TRIED = 32  # batches, at most, that errors are measured on


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A model in a lower precision.

    Attributes:
        content: the ONNX file.
        precision: ``int8`` or ``fp16``.
        calibration: what its facts were found on.
        kept: nodes that stay in float32, the most sensitive one first.
        error: relative L2 of its outputs on the calibration's inputs.
        met: whether that, or the gate that was given, is met.
    """

    content: bytes
    precision: str
    calibration: Calibration
    kept: tuple[Sensitivity, ...]
    error: float
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says about it."""
        return {
            "calibration": self.calibration.to_dict(),
            "kept_in_float": [one.to_dict() for one in self.kept],
            "calibration_error": self.error if np.isfinite(self.error) else None,
        }


def lower(content: bytes, target: Target, calibration: Calibration, *, met: Met | None = None) -> Lowered:
    """Bring a model into its target's precision.

    All of it first. If that misses the gate, every node is tried alone, and those that cost most stay in float32, as
    few of them as meet the gate. In fp16 nodes whose values come near what float16 can hold stay in any case.

    Args:
        content: the ONNX model in float32.
        target: of precision ``int8`` or ``fp16``; its runtime decides what quantised activations look like.
        calibration: inputs; for int8 real ones.
        met: says whether a model is good enough; None: that it departs from float32 by no more than half of what parity
            allows, or anything in int8.

    Raises:
        ModelError: the model has no such form.
    """
    model = onnx.load_from_string(content)
    way: _Way = _Int8(model, calibration, target) if target.precision == "int8" else _Fp16(model, calibration)
    feeds = calibration.feeds[:TRIED]
    wanted = outputs_on(model, feeds)

    def error(made: onnx.ModelProto) -> float:
        return relative_l2(wanted, outputs_on(way.seen(made), feeds))

    def good(made: onnx.ModelProto) -> bool:
        return way.good(error(made)) if met is None else met(made.SerializeToString(deterministic=True))

    always = way.out_of_range()
    outside = {one.node for one in always}
    ranked: list[Sensitivity] = []

    def ranking() -> list[str]:
        inside = [name for name in way.nodes if name not in outside]
        ranked.extend(_ranked(model, inside, lambda name: error(way.build((), name))))
        return [one.node for one in ranked]

    made, count, enough = fewest(ranking, lambda first: way.build({*outside, *first}), error, good)
    return Lowered(
        content=bytes(made.SerializeToString(deterministic=True)),
        precision=target.precision,
        calibration=calibration,
        kept=(*always, *ranked[:count]),
        error=error(made),
        met=enough,
    )


def lower_for_timing(path: Path, target: Target) -> None:
    """Rewrite an ONNX file of which only speed and size matter in its target's precision, on made-up inputs."""
    if target.precision != "fp32":
        write_atomic(path, timed_form(onnx.load(path), target.precision).SerializeToString(deterministic=True))


def timed_form(model: onnx.ModelProto, precision: str, *, seed: int = 0) -> onnx.ModelProto:
    """A model in a precision, as fast as one that is calibrated; float16 models stay as they are.

    Raises:
        ModelError: it has no such form.
    """
    if precision == "int8":
        return quantised(model, made_up_feeds(model, seed=seed))
    return halved(model) if precision == "fp16" else model


def _ranked(model: onnx.ModelProto, names: Sequence[str], alone: Callable[[str], float]) -> list[Sensitivity]:
    """The nodes that make any difference, the most sensitive one first."""
    nodes = {node.name: node for node in model.graph.node}
    found = [
        Sensitivity(node=name, op=nodes[name].op_type, layer=layer_of(nodes[name]), error=alone(name)) for name in names
    ]
    return sorted((one for one in found if one.error > 0), key=lambda one: -one.error)


class _Way(ABC):
    """A lower precision of one model."""

    nodes: tuple[str, ...]

    @abstractmethod
    def build(self, kept: Collection[str], alone: str | None = None) -> onnx.ModelProto:
        """The model with some nodes left out, or one alone brought into it."""

    def seen(self, made: onnx.ModelProto) -> onnx.ModelProto:
        """What is run to learn what it computes."""
        return made

    def good(self, error: float) -> bool:
        """Whether an error needs nothing done about it, where no gate is given."""
        return True

    def out_of_range(self) -> tuple[Sensitivity, ...]:
        """Nodes that are left out whatever their error."""
        return ()


class _Int8(_Way):
    def __init__(self, model: onnx.ModelProto, calibration: Calibration, target: Target) -> None:
        signed = runtime_for(target).signed_activations
        self._quantizer = Quantizer(model, calibration.feeds, symmetric=signed)
        self.nodes = self._quantizer.nodes

    def build(self, kept: Collection[str], alone: str | None = None) -> onnx.ModelProto:
        return self._quantizer.quantised(kept=kept, alone=alone)


class _Fp16(_Way):
    def __init__(self, model: onnx.ModelProto, calibration: Calibration) -> None:
        self._model, self._calibration = model, calibration
        self.nodes = halvable(model)

    def build(self, kept: Collection[str], alone: str | None = None) -> onnx.ModelProto:
        return halved(self._model, kept=kept, alone=alone)

    def seen(self, made: onnx.ModelProto) -> onnx.ModelProto:
        return emulated(made)

    def good(self, error: float) -> bool:
        return error <= ENOUGH * RELATIVE_L2["fp16"]

    def out_of_range(self) -> tuple[Sensitivity, ...]:
        largest = _largest(self._model, self._calibration)
        found = []
        for node in self._model.graph.node:
            most = max((largest.get(value, 0.0) for value in (*node.input, *node.output)), default=0.0)
            if node.name in self.nodes and most > LARGEST / HEADROOM:
                about = {"node": node.name, "op": node.op_type, "layer": layer_of(node)}
                found.append(Sensitivity(**about, error=np.inf, largest=most))
        return tuple(sorted(found, key=lambda one: -(one.largest or 0)))


def _largest(model: onnx.ModelProto, calibration: Calibration) -> dict[str, float]:
    """The largest finite magnitude of every value and constant: infinity fits any format."""
    largest: dict[str, float] = {}

    def take(named: Mapping[str, NDArray[Any]]) -> None:
        for name, array in named.items():
            if array.dtype.kind == "f":
                finite = np.abs(array[np.isfinite(array)])
                largest[name] = max(largest.get(name, 0.0), float(finite.max(initial=0.0)))

    take({tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer})
    for batch, values in zip(calibration.feeds, values_on(model, calibration.feeds), strict=True):
        take(batch)
        take(values)
    return largest
