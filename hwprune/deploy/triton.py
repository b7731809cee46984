"""The ``config.pbtxt`` of a model that NVIDIA's Triton Inference Server serves with its ONNX Runtime backend.

Source: Triton's documentation, "Model Configuration" and "Optimization"; fields are of its ``model_config.proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format

from hwprune.errors import ModelError
from hwprune.targets import Target

_TYPES = {  # numpy's name: Triton's
    "bool": "TYPE_BOOL",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
}
_KINDS = ("KIND_CPU", "KIND_GPU")
_ACCELERATORS = {  # by the target's runtime: where the backend takes an accelerator, and which
    "onnxruntime-tensorrt": ("gpu_execution_accelerator", "tensorrt"),
    "tensorrt": ("gpu_execution_accelerator", "tensorrt"),
    "openvino": ("cpu_execution_accelerator", "openvino"),
}
_FIELDS = {  # of every message, by name: its type; * stands for several
    "Config": {
        **{"name": "string", "backend": "string", "max_batch_size": "int32"},
        **{"input": "Port*", "output": "Port*", "instance_group": "Instances*"},
        **{"optimization": "Optimization", "parameters": "Parameter*"},
    },
    "Port": {"name": "string", "data_type": "Type", "dims": "int64*", "reshape": "Shape"},
    "Shape": {"shape": "int64*"},
    "Instances": {"count": "int32", "kind": "Kind"},
    "Optimization": {"execution_accelerators": "Accelerators"},
    "Accelerators": {
        "gpu_execution_accelerator": "Accelerator*",
        "cpu_execution_accelerator": "Accelerator*",
    },
    "Accelerator": {"name": "string"},
    "Parameter": {"key": "string", "value": "Text"},
    "Text": {"string_value": "string"},
}


def configuration(name: str, inputs: Sequence[Any], outputs: Sequence[Any], target: Target) -> str:
    """The configuration of an ONNX model whose batch is part of its shapes (``max_batch_size`` 0).

    Args:
        name: of the model, and of its folder in the repository.
        inputs: the engine's own, ``{"name", "shape", "dtype"}``; a dynamic dimension is None.
        outputs: likewise.
        target: its runtime decides the kind of instance and the accelerator; on a CPU it gives the threads.

    Raises:
        ModelError: Triton has no such type.
    """
    gpu = target.runtime not in ("onnxruntime", "openvino")
    document: dict[str, Any] = {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [_port(port) for port in inputs],
        "output": [_port(port) for port in outputs],
        "instance_group": [{"count": 1, "kind": _KINDS[gpu]}],
    }
    if target.runtime in _ACCELERATORS:
        place, accelerator = _ACCELERATORS[target.runtime]
        document["optimization"] = {"execution_accelerators": {place: [{"name": accelerator}]}}
    if not gpu:
        threads = {"key": "intra_op_thread_count", "value": {"string_value": str(target.threads)}}
        document["parameters"] = [threads]
    text: str = text_format.MessageToString(json_format.ParseDict(document, _config_class()()))
    return text


def ports_in(text: str) -> dict[str, list[dict[str, Any]]]:
    """The ``inputs`` and ``outputs`` that a configuration names, in the form of an engine's own.

    Raises:
        ValueError: it is malformed, or has a field or a value that hwprune does not write.
    """
    try:
        message = text_format.Parse(text, _config_class()())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    document = json_format.MessageToDict(message, preserving_proto_field_name=True)
    dtypes = {theirs: ours for ours, theirs in _TYPES.items()}

    def port(said: dict[str, Any]) -> dict[str, Any]:
        dims = [] if "reshape" in said else [int(size) for size in said["dims"]]
        shape = [None if size < 0 else size for size in dims]
        return {"name": said["name"], "shape": shape, "dtype": dtypes[said["data_type"]]}

    return {f"{end}s": [port(said) for said in document[end]] for end in ("input", "output")}


def _port(port: Any) -> dict[str, Any]:
    if port["dtype"] not in _TYPES:
        raise ModelError(
            f"{port['name']!r} is {port['dtype']}, which Triton does not take", hint=f"allowed: {', '.join(_TYPES)}"
        )
    dims = [-1 if size is None else size for size in port["shape"]]
    scalar: dict[str, Any] = {} if dims else {"reshape": {"shape": []}}  # Triton wants a dimension in every shape
    return {"name": port["name"], "data_type": _TYPES[port["dtype"]], "dims": dims or [1], **scalar}


def _config_class() -> Any:
    """The message as a class. Text carries names alone, so that the fields' numbers need not be Triton's."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="hwprune/triton.proto", package="hwprune.triton", syntax="proto2")
    enums = {"Type": (*_TYPES.values(),), "Kind": _KINDS}
    for name, values in enums.items():
        made = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            made.value.add(name=value, number=number)
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            plain = kind.rstrip("*")
            added = message.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            if plain in _FIELDS or plain in enums:
                added.type = kinds.TYPE_ENUM if plain in enums else kinds.TYPE_MESSAGE
                added.type_name = f".hwprune.triton.{plain}"
            else:
                added.type = getattr(kinds, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("hwprune.triton.Config"))
