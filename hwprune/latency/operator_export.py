"""An operator without weights of its own as an ONNX model, through PyTorch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import MissingLatencyError
from hwprune.latency.layer import Layer
from hwprune.latency.resizing import resized_call


def exported_operator(layer: Layer, size: int | None) -> bytes:
    """One call of an ATen operator as an ONNX model.

    Args:
        layer: an operator without weights.
        size: channels of its output; None where it has none.

    Raises:
        MissingLatencyError: it cannot be run alone, or not with this many channels.
    """
    shapes, call = resized_call(layer, size)
    expected = list(layer.output.shape)
    if size is not None and layer.output.channel_dim is not None:
        expected[layer.output.channel_dim] = size
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    try:
        operator = _Operator(call).eval()
        with torch.no_grad():
            result = operator(*inputs)
        produced = list((result[0] if isinstance(result, list) else result).shape)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _cannot_measure(layer, expected, str(error)) from error
    if produced != expected:
        raise _cannot_measure(layer, expected, f"it gives {produced}")
    with _known_noise_silenced():
        try:
            program = torch.onnx.export(operator, inputs, dynamo=True, optimize=True, verbose=False)
        except torch.onnx.OnnxExporterError as error:
            raise _cannot_measure(layer, expected, f"it has no ONNX form ({error})") from error
    assert program is not None  # None is returned by the exporter that dynamo=False asks for
    return bytes(program.model_proto.SerializeToString())


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

    def forward(self, *inputs: Tensor) -> Tensor | list[Tensor]:
        """The first of several results (the others are indices and statistics), but all pieces of a split."""
        result = self._function(*self._filled(self._args, inputs), **self._filled(self._kwargs, inputs))
        if isinstance(result, tuple):
            return result[0]  # type: ignore[no-any-return]
        return list(result) if isinstance(result, list) else result


def _cannot_measure(layer: Layer, expected: list[int], reason: str) -> MissingLatencyError:
    target = layer.call["target"] if layer.call else layer.op
    return MissingLatencyError(
        f"layer {layer.name}: {target} cannot be run alone with an output of {expected}: "
        + reason.strip().partition("\n")[0],
        hint="report this operator to hwprune, or write the model without it",
    )


@contextmanager
def _known_noise_silenced() -> Iterator[None]:
    """Hold back what torch 2.13's exporter says on every call and no user can act on."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            # torch.export copies its own deprecated LeafSpec
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        logger.removeFilter(keep)
