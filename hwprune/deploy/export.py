"""From a torch model to one ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hwprune.deploy import dynamic_batch as dynamic
from hwprune.deploy.reference import evaluating, on_device_of, reference_outputs, returning_tensors
from hwprune.deploy.zeros import without_zeros
from hwprune.errors import InputError, ModelError, first_line
from hwprune.files import write_atomic
from hwprune.latency.exporter_noise import exporter_noise_silenced
from hwprune.network.forward import Example, tensors_in
from hwprune.network.surgery import Removed

_SIGNED = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
OPSETS = range(18, 26)  # torch writes 18 or newer, and onnxscript 0.7 converts up to 25
MOST_BYTES = 2**31 - 1  # of one protobuf message


@dataclass(frozen=True, kw_only=True)
class OnnxInfo:
    """What was written.

    Attributes:
        path: the file.
        size_bytes: its size; weights are inside.
        opset: version of the ONNX operator set.
        inputs: names: of the arguments, where the example gives them by name; in the example's order.
        outputs: names, in the order ``forward`` returns them (nested results are flattened).
    """

    path: Path
    size_bytes: int
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export_onnx(model: nn.Module, example: Example, path: Path | str) -> OnnxInfo:
    """Export a model in evaluation mode to one self-contained ONNX file.

    Shapes are fixed to the example's, batch included. The result is checked (operators, types, shapes)
    before it is written, and carries no paths or source lines of this machine: the same model gives the
    same bytes anywhere. The model is left as it was.

    Args:
        model: on any device; its parameters are not changed.
        example: the arguments of ``forward``, batch first; values do not matter, shapes and dtypes do.
        path: the file to create or replace.

    Raises:
        ModelError: ``forward`` fails, has no ONNX form, or needs more than 2 GB.
        InputError: the file cannot be written.
    """
    proto = exported_proto(model, example)
    content = _checked(proto, reference_outputs(model, example))
    try:
        write_atomic(Path(path), content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", hint="choose a folder with space and write permission"
        ) from error
    return OnnxInfo(
        path=Path(path),
        size_bytes=len(content),
        opset=_opset_of(proto),
        inputs=tuple(port.name for port in proto.graph.input),
        outputs=tuple(port.name for port in proto.graph.output),
    )


def exported_bytes(
    model: nn.Module, example: Example, *, opset: int | None = None, dynamic_batch: bool = False
) -> bytes:
    """The contents of the file that :func:`export_onnx` writes; of another operator set, if one is given.

    Args:
        model: as there.
        example: likewise.
        opset: version of the ONNX operator set, of :data:`OPSETS`; None for the exporter's own.
        dynamic_batch: leave the batch open.

    Raises:
        InputError: there is no such operator set here, or the inputs have no batch.
        ModelError: as there, or an operator is not in that set, or the model does not take any batch.
    """
    if dynamic_batch:
        example = dynamic.resized(example, 2)  # torch.export takes a size of 1 for a constant
    proto = exported_proto(model, example, opset=opset, dynamic_batch=dynamic_batch)
    return _checked(proto, reference_outputs(model, example), dynamic_batch=dynamic_batch)


def check_opset(opset: int) -> None:
    """Refuse an operator set that the exporter does not write.

    Raises:
        InputError: it is out of reach.
    """
    if opset not in OPSETS:
        raise InputError(
            f"opset {opset} is none that the exporter writes", hint=f"{OPSETS.start} to {OPSETS.stop - 1} are allowed"
        )


def exported_proto(
    model: nn.Module, example: Example, *, opset: int | None = None, dynamic_batch: bool = False
) -> onnx.ModelProto:
    """Export a model in evaluation mode; the exporter's notes about where nodes come from are still in it.

    Args:
        model: on any device; left as it was.
        example: the arguments of ``forward``, batch first.
        opset: as for :func:`exported_bytes`.
        dynamic_batch: likewise; the example's batch is 2 or more then.

    Raises:
        InputError: there is no such operator set here.
        ModelError: ``forward`` fails or has no ONNX form, or none in that operator set.
    """
    if opset is not None:
        check_opset(opset)
    expected = reference_outputs(model, example)
    with evaluating(model), returning_tensors(model), exporter_noise_silenced(), _FourDimensions():
        export = partial(_exported, model, example, len(expected), opset, dynamic_batch=dynamic_batch)
        proto = export(optimize=True)
        if not _is_whole(proto.graph):
            # The exporter's rewriting loses constants where several Clips follow one (onnxscript 0.7.2).
            proto = export(optimize=False)
    if opset not in (None, _opset_of(proto)):
        raise ModelError(
            f"the exporter wrote opset {_opset_of(proto)}, {opset} was asked for: an operator has no form in it",
            hint="choose another opset, or leave it out",
        )
    return proto


def _opset_of(proto: onnx.ModelProto) -> int:
    version: int = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return version


def _exported(
    model: nn.Module, example: Example, outputs: int, opset: int | None, *, dynamic_batch: bool, optimize: bool
) -> onnx.ModelProto:
    positional, named = arguments(on_device_of(model, example))
    try:
        program = torch.onnx.export(
            model,
            positional,
            kwargs=named,
            input_names=list(named) or list(_names("input", len(positional))),
            output_names=list(_names("output", outputs)),
            opset_version=opset,
            dynamic_shapes=dynamic.open_shapes(model, positional, named) if dynamic_batch else None,
            dynamo=True,
            optimize=optimize,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise _cannot_export(error) from error
    assert program is not None  # None is returned by the exporter that dynamo=False asks for
    if not optimize:
        onnxscript.optimizer.fold_constants(program.model)
        onnxscript.optimizer.remove_unused_nodes(program.model)
    if any(isinstance(module, Removed) for module in model.modules()):
        without_zeros(program.model, model.state_dict().keys())
    proto: onnx.ModelProto = program.model_proto
    return proto


def _is_whole(graph: onnx.GraphProto) -> bool:
    """Whether everything that nodes read is there."""
    made = {one.name for one in (*graph.input, *graph.initializer)}.union(*(node.output for node in graph.node))
    return made.union([""]).issuperset(value for node in graph.node for value in node.input)


class _FourDimensions(TorchFunctionMode):
    """Scaled dot-product attention on four dimensions, whatever it is called with: the exporter knows no other."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **(kwargs or {})}
        attention = func is F.scaled_dot_product_attention and len(args) <= 4 and not named.get("enable_gqa")
        if not attention or named["query"].dim() == 4:
            return func(*args, **(kwargs or {}))
        leading = np.broadcast_shapes(*(named[name].shape[:-2] for name in ("query", "key", "value")))
        for name in ("query", "key", "value", "attn_mask"):
            tensor = named.get(name)
            if tensor is not None:
                named[name] = tensor.expand(*leading, *tensor.shape[-2:]).reshape(1, -1, *tensor.shape[-2:])
        made: Tensor = func(**named)
        return made.reshape(*leading, *made.shape[-2:])


def arguments(example: Example) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The positional arguments of ``forward``, and those by name."""
    return ((), dict(example)) if isinstance(example, Mapping) else (tensors_in(example), {})


def _names(base: str, count: int) -> tuple[str, ...]:
    return (base,) if count == 1 else tuple(f"{base}_{i}" for i in range(count))


def _checked(proto: onnx.ModelProto, expected: tuple[Tensor, ...], *, dynamic_batch: bool = False) -> bytes:
    """Serialise after checking operators, types and shapes, and that outputs have the model's shapes."""
    del proto.metadata_props[:]
    _strip(proto.graph)
    _without_negative_zeros(proto.graph)
    if proto.ByteSize() > MOST_BYTES:
        raise ModelError(
            f"the exported model has {proto.ByteSize()} bytes; one ONNX file holds {MOST_BYTES}",
            hint="hwprune writes single files; use a smaller model",
        )
    try:
        onnx.checker.check_model(proto)
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the exported graph is not valid ONNX: {first_line(error)}",
            hint="many operators of ONNX have no bfloat16: export the model in float16 or float32"
            if "bfloat16" in str(error)
            else "report this model to hwprune",
        ) from error
    if dynamic_batch:
        dynamic.check_open(proto.graph)
    for port, tensor in zip(proto.graph.output, expected, strict=True):
        shape = tuple(dim.dim_value for dim in port.type.tensor_type.shape.dim)
        if shape[dynamic_batch:] != tuple(tensor.shape[dynamic_batch:]):
            raise ModelError(
                f"{port.name} has shape {shape} in the exported graph and {tuple(tensor.shape)} in torch",
                hint="the shape of the output must follow from the shape of the input alone",
            )
    return bytes(proto.SerializeToString(deterministic=True))


def _strip(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes: stack traces with paths of this machine, a third of a small file."""
    for item in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _strip(inner)


def _without_negative_zeros(graph: onnx.GraphProto) -> None:
    """Zeros of weights get no sign: a folded batch norm gives them one, and they would no longer pack as zeros."""
    for tensor in graph.initializer:
        if tensor.data_type in _SIGNED and len(tensor.dims) > 1 and tensor.raw_data:
            values = onnx.numpy_helper.to_array(tensor)
            if (np.signbit(values) & (values == 0)).any():
                tensor.raw_data = np.where(values == 0, np.abs(values), values).tobytes()


def _cannot_export(error: Exception) -> ModelError:
    cause = error.__cause__ or error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ModelError(
        f"the model has no ONNX form: {type(cause).__name__}: {first_line(cause)}",
        hint="its forward must not branch on values, and every operator needs an ONNX counterpart",
    )
