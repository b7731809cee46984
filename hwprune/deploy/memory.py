"""Memory that an exported engine takes while it runs, as the runtime's own allocator counts it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hwprune.errors import ModelError
from hwprune.targets import Target


@dataclass(frozen=True)
class Memory:
    """What an engine holds.

    Attributes:
        weights: bytes of its initializers.
        activations: bytes of its inputs, and of what the runtime requested at once for tensors at the worst moment.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Both, in bytes."""
        return self.weights + self.activations


def measure_memory(model: Path, target: Target, *, sparing: bool = True) -> Memory | None:
    """Run an ONNX model twice and read what its tensors took.

    Not counted are copies of weights that the runtime packs for its kernels, and what its arena rounds up.

    Args:
        model: the exported model.
        target: the device.
        sparing: tell the runtime to free every tensor after its last reader (``enable_mem_reuse`` and
            ``enable_mem_pattern`` off). In its default mode ONNX Runtime keeps buffers for tensors of the same shape
            that come later; that takes up to three times the activations, and no less time.

    Returns:
        What was measured; None where the runtime does not tell: only ONNX Runtime on this machine's CPU does, lately.

    Raises:
        ModelError: the model cannot be read or run.
    """
    if target.runtime != "onnxruntime" or target.connection != "local":
        return None
    try:
        graph = onnx.load(model).graph
    except Exception as error:  # protobuf has its own, without types
        raise ModelError(f"cannot read {model}: {error}", hint="give an exported model") from error
    feeds = {port.name: _zeros(port.type.tensor_type) for port in graph.input}
    kernels = _profile(model, feeds, target.threads, sparing=sparing)
    if not all("mem_bytes_requested_in_use" in kernel for kernel in kernels):
        return None
    held = [int(kernel["mem_bytes_requested_in_use"]) for kernel in kernels]
    before = held[0] - int(kernels[0]["mem_requested_in_use_delta"])  # some weights are in the same arena
    return Memory(
        weights=sum(math.prod(tensor.dims) * _itemsize(tensor.data_type) for tensor in graph.initializer),
        activations=max(held) - before + sum(array.nbytes for array in feeds.values()),
    )


def channel_block(target: Target) -> int:
    """Channels that the runtime pads convolutions to, as it shows in the result of one with a single channel.

    Other widths hold as much as the next multiple; ONNX Runtime has blocks of 16 with AVX-512 and of 8 with AVX2.

    Args:
        target: the device.

    Returns:
        The block; 1 where there is none, or it cannot be seen from here.
    """
    if target.runtime != "onnxruntime" or target.connection != "local":
        return 1
    feeds = {"x": np.zeros((1, 1, 8, 8), np.float32)}
    kernels = _profile(_one_channel().SerializeToString(), feeds, target.threads)
    shapes = [shape for kernel in kernels for types in kernel["output_type_shape"] for shape in types.values()]
    return max(int(shape[1]) for shape in shapes)


def _one_channel() -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 1, 8, 8)) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "conv", ports[:1], ports[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _profile(
    model: Path | bytes, feeds: Mapping[str, NDArray[Any]], threads: int, *, sparing: bool = True
) -> list[dict[str, Any]]:
    """What ONNX Runtime tells about every kernel of two runs: its plan for memory is made in the first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.enable_mem_reuse = options.enable_mem_pattern = not sparing
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        try:
            source = str(model) if isinstance(model, Path) else model
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            for _ in range(2):
                session.run(None, dict(feeds))
        except Exception as error:  # a different class per cause, and plain RuntimeError
            raise ModelError(f"onnxruntime cannot run the model: {error}", hint="give an exported model") from error
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return [event["args"] for event in events if event["cat"] == "Node"]


def _zeros(port: onnx.TypeProto.Tensor) -> NDArray[Any]:
    return np.zeros([dim.dim_value for dim in port.shape.dim], helper.tensor_dtype_to_np_dtype(port.elem_type))


def _itemsize(data_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)
