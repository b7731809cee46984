"""Models in the format that a target's runtime opens."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import torch
from torch import nn

from hwprune.deploy.export import arguments, exported_bytes
from hwprune.deploy.lowering import timed_form
from hwprune.deploy.reference import evaluating, returning_tensors
from hwprune.errors import InputError, ModelError, first_line
from hwprune.latency import null_model, probe_models
from hwprune.latency.bench import EDGE, PROBED, probe
from hwprune.network.forward import Example
from hwprune.targets import Target, runtime_for


def engine_bytes(model: nn.Module, example: Example, target: Target) -> bytes:
    """Export a model for a target: ONNX, or what its runtime takes instead; in lower precisions on made-up inputs.

    Raises:
        ModelError: it has no such form.
    """
    if runtime_for(target).model_format == "torch":
        return torch_archive(model, example)
    return from_onnx(_in_precision(exported_bytes(model, example), target), target)


def engine_at(path: Path, target: Target) -> bytes | Path:
    """A file with an engine for a target's runtime; an ``.onnx`` file in the runtime's format.

    Raises:
        InputError: it is ONNX, and the runtime opens programs of torch; or it cannot be read.
        ModelError: it cannot be converted.
    """
    wanted = runtime_for(target).model_format
    if path.suffix != ".onnx" or wanted == "onnx":
        return path
    if wanted == "torch":
        raise InputError(
            f"{path} is ONNX, and target {target.name!r} runs archives of torch.export",
            hint="give the model itself (--model), an archive (.pt2), or a target whose runtime opens ONNX",
        )
    return from_onnx(read_model(path), target)


def check_deliverable(target: Target) -> None:
    """Refuse a target whose engines a compression cannot deliver: it prices and weighs ONNX files.

    Raises:
        InputError: its runtime opens another format than ONNX.
    """
    runtime = runtime_for(target)
    if runtime.model_format != "onnx":
        raise InputError(
            f"target {target.name!r} takes {runtime.model_format} engines, which compress cannot weigh yet",
            hint="compress for a target that opens ONNX, such as local-onnxruntime, and export the network "
            "that hwprune.load rebuilds for this one",
        )


def torch_archive(model: nn.Module, example: Example) -> bytes:
    """The model as an archive of ``torch.export``: a graph and weights, no code that opening it would run.

    Like an ONNX file it carries no paths or source lines of this machine.
    """
    program, buffer = torch_program(model, example), io.BytesIO()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, buffer)
    return buffer.getvalue()


def torch_program(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """The model in evaluation mode, as a program of ``torch.export``.

    Raises:
        ModelError: it has no such form.
    """
    with evaluating(model), returning_tensors(model):
        try:
            return torch.export.export(model, *arguments(example))
        except Exception as error:  # torch has a class per cause
            raise ModelError(
                f"torch.export cannot record the model: {type(error).__name__}: {first_line(error)}",
                hint="its forward must not branch on values",
            ) from error


def from_onnx(model: bytes, target: Target) -> bytes:
    """An ONNX model in the format of a target's runtime.

    Raises:
        ModelError: it has no such form.
    """
    if runtime_for(target).model_format == "ncnn":
        from hwprune.targets.ncnn import converted

        return converted(model)
    return model


def null_engine(target: Target) -> bytes:
    """A model that does nothing."""
    if runtime_for(target).model_format == "torch":
        return torch_archive(nn.Identity(), torch.zeros(1))
    return from_onnx(null_model(), target)


def probe_engines(target: Target) -> dict[int, bytes]:
    """Output channels → a convolution that takes about a tenth of a millisecond, to find the channel step by."""
    if runtime_for(target).model_format == "torch":
        layer = probe(target)
        example = torch.zeros(layer.inputs[0].shape)
        return {out: torch_archive(nn.Conv2d(EDGE, out, 3, padding=1), example) for out in PROBED}
    return {out: from_onnx(_in_precision(model, target), target) for out, model in probe_models(target).items()}


def _in_precision(model: bytes, target: Target) -> bytes:
    if target.precision == "fp32":
        return model
    return bytes(timed_form(onnx.load_from_string(model), target.precision).SerializeToString())


def read_model(path: Path) -> bytes:
    """The contents of an exported model's file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint="give an exported model") from error
