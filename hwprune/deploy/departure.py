"""Where an engine that does not compute what the model computes begins to differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from hwprune import device_runner
from hwprune.deploy.calibration import from_example
from hwprune.deploy.parity import RELATIVE_L2, Parity
from hwprune.deploy.reference import reference_outputs
from hwprune.deploy.values import relative_l2, values_on
from hwprune.errors import HwpruneError, ParityError
from hwprune.network.forward import Example


def check_parity(parity: Parity, precision: str, *, model: nn.Module, example: Example, content: bytes | None) -> None:
    """Hold parity against its gate, and name the first layer that departs where it fails.

    Args:
        parity: what was compared.
        precision: whose gate it is.
        model: the reference.
        example: one batch of the engine's size.
        content: the engine, if it is ONNX.

    Raises:
        ParityError: as :meth:`Parity.check`.
    """
    try:
        parity.check(precision)
    except ParityError as error:
        layer = None if content is None else first_departure(model, example, content, precision)
        if layer is None:
            raise
        raise ParityError(f"{error.message}; the first layer that departs is {layer}", hint=error.hint) from error


def first_departure(model: nn.Module, example: Example, content: bytes, precision: str) -> str | None:
    """The first module whose output is nowhere in the engine's graph, nor that of a module which reads it.

    The second half is for layers that the exporter joins, such as a convolution with its norm.

    Args:
        model: the reference.
        example: one batch of the engine's size.
        content: the engine, an ONNX model; ONNX Runtime's CPU provider runs it.
        precision: how close values have to be: within the gate of parity.

    Returns:
        Path and class; None if there is none, or the graph cannot be run.
    """
    with _recorded(model) as steps:
        reference_outputs(model, example)
    try:
        (values,) = values_on(onnx.load_from_string(content), from_example(content, example).feeds)
    except (HwpruneError, device_runner.BadInput):
        return None
    by_shape: dict[tuple[int, ...], list[NDArray[Any]]] = {}
    for array in values.values():
        by_shape.setdefault(array.shape, []).append(array)
    limit = RELATIVE_L2[precision]
    found = [
        any(relative_l2([[step.value]], [[array]]) <= limit for array in by_shape.get(step.value.shape, ()))
        for step in steps
    ]
    joined = {id(tensor) for step, there in zip(steps, found, strict=True) if there for tensor in step.read}
    for step, there in zip(steps, found, strict=True):
        if not there and id(step.output) not in joined:
            return f"{step.name or 'the whole'} ({step.kind})"
    return None


@dataclass(frozen=True)
class _Step:
    """One call of a module; tensors are held so that no other gets their identity."""

    name: str
    kind: str
    read: tuple[Tensor, ...]
    output: Tensor
    value: NDArray[Any]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[_Step]]:
    """Calls of modules that return a floating point tensor, in the order in which they end."""
    steps: list[_Step] = []

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            read = tuple(one for one in inputs if isinstance(one, Tensor))
            value = output.detach().float().cpu().numpy().astype(np.float64)
            steps.append(_Step(name, type(module).__name__, read, output, value))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            hook = module.register_forward_hook(lambda m, i, o, name=name: record(name, m, i, o))
            stack.callback(hook.remove)
        yield steps
