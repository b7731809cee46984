"""Models in the format that a target's runtime opens."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from hwprune.deploy.export import exported_bytes
from hwprune.deploy.quantization import made_up_feeds, quantised
from hwprune.deploy.reference import as_inputs, evaluating
from hwprune.errors import InputError
from hwprune.latency import null_model, probe_models
from hwprune.latency.bench import EDGE, PROBED, probe
from hwprune.targets import Target, runtime_for


def engine_bytes(model: nn.Module, example: Tensor | tuple[Tensor, ...], target: Target) -> bytes:
    """Export a model for a target: ONNX, or what its runtime takes instead.

    Raises:
        ModelError: it has no such form.
    """
    if runtime_for(target).model_format == "torch":
        return torch_archive(model, example)
    return from_onnx(exported_bytes(model, example), target)


def torch_archive(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> bytes:
    """The model as an archive of ``torch.export``: a graph and weights, no code that opening it would run."""
    buffer = io.BytesIO()
    torch.export.save(torch_program(model, example), buffer)
    return buffer.getvalue()


def torch_program(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The model in evaluation mode, as a program of ``torch.export``."""
    with evaluating(model):
        return torch.export.export(model, as_inputs(example))


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
    if target.precision != "int8":
        return model
    made = onnx.load_from_string(model)
    return bytes(quantised(made, made_up_feeds(made)).SerializeToString())


def read_model(path: Path) -> bytes:
    """The contents of an exported model's file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint="give an exported model") from error
