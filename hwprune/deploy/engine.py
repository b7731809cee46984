"""Running an opened engine on torch tensors, whatever batch it was built for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwprune.errors import InputError
from hwprune.network.forward import Example, tensors_in


class Engine(Protocol):
    """An engine of :mod:`hwprune.device_runner`, opened by a runtime.

    Attributes:
        inputs: for each input ``{"name", "shape", "dtype"}``, batch first; None is a dynamic dimension.
        outputs: the same for each output.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def run(self, feeds: dict[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""


def run_engine(engine: Engine, inputs: Example) -> tuple[Tensor, ...]:
    """Run an engine on any number of samples.

    A batch other than the engine's is split into the engine's batches; the last is filled up by
    repeating its last sample, whose extra results are dropped.

    Args:
        engine: opened by a runtime.
        inputs: in the order of the engine's inputs or by their names, batch first, of the engine's dtypes.

    Returns:
        One tensor per output, on the CPU.

    Raises:
        InputError: another number of inputs, a wrong dtype or shape, an empty batch, or an output
            that has no batch dimension although the batch had to be split.
    """
    names = [port["name"] for port in engine.inputs]
    arrays = [_array(tensor) for tensor in in_order(engine, inputs)]
    if all(_fits(array, port["shape"]) for array, port in zip(arrays, engine.inputs, strict=True)):
        _check(engine, arrays)
        return _tensors(engine.run(dict(zip(names, arrays, strict=True))))
    batch, samples = _batch(engine, arrays)
    parts = []
    for start in range(0, samples, batch):
        rows = np.minimum(np.arange(start, start + batch), samples - 1)
        outputs = engine.run({name: array[rows] for name, array in zip(names, arrays, strict=True)})
        parts.append([array[: samples - start] for array in outputs])
    return _tensors([np.concatenate(chunks) for chunks in zip(*parts, strict=True)])


def in_order(engine: Engine, example: Example) -> tuple[Tensor, ...]:
    """The tensors in the order of the engine's inputs; those by name need not be the engine's names, but as many.

    Raises:
        InputError: there are more or fewer.
    """
    tensors = tensors_in(example)
    if len(tensors) != len(engine.inputs):
        raise InputError(f"the engine has {len(engine.inputs)} inputs, got {len(tensors)}", hint=_expects(engine))
    names = [port["name"] for port in engine.inputs]
    if isinstance(example, Mapping) and set(names) == set(example):
        return tuple(example[name] for name in names)
    return tensors


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        raise InputError("engines take no bfloat16 from here: numpy has no such type", hint="use float16 or float32")
    return tensor.detach().cpu().numpy()


def predictor(engine: Engine) -> Callable[..., Any]:
    """The engine as a function of tensors, to be evaluated in place of the torch model.

    Returns:
        A function that takes the model's inputs, by position or by name, with any batch, and returns the output
        tensor, or a tuple of them if the engine has several. It raises what :func:`run_engine` raises.
    """

    def predict(*inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = run_engine(engine, named or inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    return predict


def _tensors(arrays: list[NDArray[Any]]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def _fits(array: NDArray[Any], shape: list[int | None]) -> bool:
    return array.ndim == len(shape) and all(want in (None, have) for have, want in zip(array.shape, shape, strict=True))


def _check(engine: Engine, arrays: list[NDArray[Any]]) -> None:
    for array, port in zip(arrays, engine.inputs, strict=True):
        rest = [None, *port["shape"][1:]] if port["shape"] else []
        if array.dtype != np.dtype(port["dtype"]) or not _fits(array, rest) or array.size == 0:
            raise InputError(
                f"input {port['name']} got {array.dtype} of shape {list(array.shape)}", hint=_expects(engine)
            )


def _batch(engine: Engine, arrays: list[NDArray[Any]]) -> tuple[int, int]:
    """The engine's batch and the number of samples, when the one must be split into the other."""
    _check(engine, arrays)
    batches = {(port["shape"] or [None])[0] for port in (*engine.inputs, *engine.outputs)}
    samples = {array.shape[0] if array.ndim else None for array in arrays}
    batch, count = batches.pop(), samples.pop()
    if batches or samples or not batch or not count:
        raise InputError(
            f"inputs of shape {[list(array.shape) for array in arrays]} cannot be split into the engine's batches",
            hint=_expects(engine),
        )
    return batch, count


def _expects(engine: Engine) -> str:
    ports = ", ".join(f"{port['name']}: {port['dtype']} {port['shape']}" for port in engine.inputs)
    return f"the engine takes {ports}; a batch is split only if every input and output has one"
