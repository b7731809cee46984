"""An operator without weights of its own as an ONNX model, through PyTorch's exporter."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx.utils
import torch
from torch import Tensor, nn

from hwprune.errors import MissingLatencyError
from hwprune.latency.exporter_noise import exporter_noise_silenced
from hwprune.latency.layer import Layer
from hwprune.latency.resizing import resized_call


def exported_operators(layer: Layer, sizes: Sequence[int | None]) -> list[bytes]:
    """One call of an ATen operator as an ONNX model, for several channel counts.

    They are exported together and then taken apart: the exporter takes most of a second whatever it is given.

    Args:
        layer: an operator without weights.
        sizes: channels of its output; None where it has none.

    Returns:
        a serialised model per size.

    Raises:
        MissingLatencyError: it cannot be run alone, or not with so many channels.
    """
    resized = [resized_call(layer, size) for size in sizes]
    generator = torch.Generator().manual_seed(0)
    inputs = [[torch.randn(shape, generator=generator) for shape in shapes] for shapes, _ in resized]
    try:
        operators = [_Operator(call) for _, call in resized]
        with torch.no_grad():
            outputs = [operator(*given) for operator, given in zip(operators, inputs, strict=True)]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _cannot_measure(layer, str(error)) from error
    for size, produced in zip(sizes, outputs, strict=True):
        _check_shape(layer, size, list(produced[0].shape))
    read, made = _names("x", inputs), _names("y", outputs)
    with exporter_noise_silenced():
        try:
            program = torch.onnx.export(
                _SideBySide(operators).eval(),
                tuple(_flat(inputs)),
                input_names=list(_flat(read)),
                output_names=list(_flat(made)),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _cannot_measure(layer, f"it has no ONNX form ({error})") from error
    assert program is not None  # None is returned by the exporter that dynamo=False asks for
    whole = onnx.utils.Extractor(program.model_proto)
    return [bytes(whole.extract_model(*ends).SerializeToString()) for ends in zip(read, made, strict=True)]


def _check_shape(layer: Layer, size: int | None, produced: list[int]) -> None:
    expected = list(layer.output.shape)
    if size is not None and layer.output.channel_dim is not None:
        expected[layer.output.channel_dim] = size
    if produced != expected:
        raise _cannot_measure(layer, f"its output should be {expected} and is {produced}")


def _names(end: str, tensors: Sequence[Sequence[Tensor]]) -> list[list[str]]:
    return [[f"{end}{i}_{j}" for j in range(len(own))] for i, own in enumerate(tensors)]


def _flat(lists: Iterable[Iterable[Any]]) -> Iterator[Any]:
    return itertools.chain.from_iterable(lists)


class _SideBySide(nn.Module):
    """Several operators that have nothing to do with each other."""

    def __init__(self, operators: Sequence[nn.Module]) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Inputs of all of them in a row to outputs of all of them in a row."""
        count = len(inputs) // len(self.operators)
        given = (inputs[i * count : (i + 1) * count] for i in range(len(self.operators)))
        return [output for operator, own in zip(self.operators, given, strict=True) for output in operator(*own)]


class _Operator(nn.Module):
    """Calls one operator; constants among its arguments are buffers, as parameters are in a real network."""

    def __init__(self, call: dict[str, Any]) -> None:
        super().__init__()
        namespace, name, overload = call["target"].split(".")
        self._function = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        self._args, self._kwargs = self._prepared(call["args"]), self._prepared(call["kwargs"])

    def _prepared(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._prepared(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "constant" in value:
            name = f"constant_{len(list(self.buffers()))}"
            dtype = getattr(torch, value["dtype"])
            # Above 0, because one of them may be a variance.
            values = torch.linspace(0.5, 1.5, max(1, torch.Size(value["constant"]).numel())).reshape(value["constant"])
            self.register_buffer(name, values.to(dtype))
            return {"buffer": name}
        if "torch" in value:
            return getattr(torch, value["torch"])
        if "float" in value:
            return float(value["float"])
        if "repr" in value:
            raise ValueError(f"its argument {value['repr']} cannot be written down")
        return value if "input" in value else {name: self._prepared(item) for name, item in value.items()}

    def _filled(self, value: Any, inputs: tuple[Tensor, ...]) -> Any:
        if isinstance(value, list):
            return [self._filled(item, inputs) for item in value]
        if isinstance(value, dict):
            if "input" in value:
                return inputs[value["input"]]
            if "buffer" in value:
                return self.get_buffer(value["buffer"])
            return {name: self._filled(item, inputs) for name, item in value.items()}
        return value

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """The first of several results (the others are indices and statistics), but all pieces of a split."""
        result = self._function(*self._filled(self._args, inputs), **self._filled(self._kwargs, inputs))
        if isinstance(result, list):
            return list(result)
        return [result[0] if isinstance(result, tuple) else result]


def _cannot_measure(layer: Layer, reason: str) -> MissingLatencyError:
    target = layer.call["target"] if layer.call else layer.op
    return MissingLatencyError(
        f"layer {layer.name}: {target} cannot be measured alone: " + reason.strip().partition("\n")[0],
        hint="report this operator to hwprune, or write the model without it",
    )
