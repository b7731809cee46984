"""What an ONNX model computes on given inputs: its outputs, and every value on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwprune import device_runner
from hwprune.deploy.quantization import Feeds
from hwprune.errors import ModelError, first_line

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def outputs_on(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[list[NDArray[Any]]]:
    """Outputs by batch, as ONNX Runtime's CPU provider computes them.

    Raises:
        ModelError: it cannot run the model.
    """
    try:
        engine = device_runner.open_engine(model.SerializeToString())
        return [engine.run(dict(batch)) for batch in feeds]
    except Exception as error:  # ONNX Runtime has a class per cause
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}", hint="try precision fp32") from error


def values_on(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> Iterator[dict[str, NDArray[Any]]]:
    """By batch, every floating point value that nodes of the graph write, by name.

    Raises:
        ModelError: as :func:`outputs_on`.
    """
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    graph = onnx.shape_inference.infer_shapes(model).graph
    there = {port.name for port in open_model.graph.output}
    inner = [one for one in graph.value_info if one.type.tensor_type.elem_type in _FLOATS and one.name not in there]
    open_model.graph.output.extend(inner)
    names = [port.name for port in open_model.graph.output]
    for batch in feeds:
        (found,) = outputs_on(open_model, [batch])
        yield {name: array for name, array in zip(names, found, strict=True) if array.dtype.kind == "f"}


def relative_l2(wanted: Sequence[Sequence[NDArray[Any]]], found: Sequence[Sequence[NDArray[Any]]]) -> float:
    """Norm of the error over the norm of what is wanted, over all batches; of several outputs the worst.

    Infinite where something is not finite that should be.
    """
    worst = 0.0
    for one, other in zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True):
        reference, array = (np.stack(batches).astype(np.float64) for batches in (one, other))
        if not (np.isfinite(array) == np.isfinite(reference)).all():
            return math.inf
        settled = np.isfinite(reference)
        error, scale = (float(np.linalg.norm(a[settled])) for a in (array - reference, reference))
        worst = max(worst, error / scale if scale else (math.inf if error else 0.0))
    return worst
