"""TensorRT plans: built from an ONNX model on the GPU that is to run them, or opened.

Stands beside ``device_runner.py`` on a device. What differs between TensorRT 10.3 (JetPack 6) and 11 is found by asking
for it. Up to TensorRT 10 the builder chooses the precision of every kernel, with a flag for each that it may use; from
11 on the types in the model are the types of the kernels. int8 is QuantizeLinear and DequantizeLinear in the model, in
every version: there is no calibration.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput, NotInstrumented
else:
    from device_runner import BadInput, NotInstrumented  # beside it on a device

_NODE = re.compile(r"\[ONNX Layer: (.+?)\](?=$|[\x1e\x1f\[])")  # in a layer's metadata, once for each node fused in it
_timings: dict[str | None, bytes] = {}  # what builders measured so far, by Build.timing_cache


@dataclass(frozen=True)
class Build:
    """How plans are built; the defaults are TensorRT's own, and trtexec's.

    Attributes:
        timing_cache: file that keeps what the builder measured: read if it is there, written after each build. It makes
            builds faster and gives equal layers equal kernels. Without, the builds of one process share theirs.
        workspace_bytes: most scratch memory that a kernel may use; None: all that the GPU has.
        optimization_level: 0 (fastest build) to 5; None: TensorRT's default, 3.
        tf32: whether float32 products may round their factors to 10 bits of mantissa, on GPUs that can.
        version_compatible: newer TensorRT versions can open the plan, which may be slower.
        hardware_compatibility: a member of TensorRT's HardwareCompatibilityLevel; other than ``NONE`` may be slower.
    """

    timing_cache: str | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = True
    version_compatible: bool = False
    hardware_compatibility: str = "NONE"


class Plan:
    """A plan in GPU memory.

    Args:
        trt: the package tensorrt.
        model: an ONNX model, or with ``trusted`` a serialised plan.
        precision: see ``tensorrt_engine.Engine``.
        build: how the plan is built.
        trusted: see ``tensorrt_engine.Engine``.

    Attributes:
        engine: TensorRT's ICudaEngine.

    Raises:
        BadInput: the model cannot be built or falls short of the precision, or the plan cannot be opened.
    """

    def __init__(self, trt: Any, model: bytes, *, precision: str, build: Build, trusted: bool) -> None:
        self.log = _make_log(trt)  # TensorRT needs it for as long as the engine lives
        trt.init_libnvinfer_plugins(self.log, "")
        content = model if trusted else _build(trt, self.log, model, precision, build)
        self.runtime = trt.Runtime(self.log)
        self.runtime.engine_host_code_allowed = trusted or build.version_compatible  # such plans bring their runtime
        self.engine = self.runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise BadInput(f"not opened as a plan: {'; '.join(self.log.errors)}")


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)

    return Log()


def _build(trt: Any, log: Any, model: bytes, precision: str, build: Build) -> Any:
    """The serialised plan of an ONNX model."""
    builder = trt.Builder(log)
    network = builder.create_network()
    parser = trt.OnnxParser(network, log)  # holds the weights until the plan is built
    if not parser.parse(model):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        words = [f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})" for error in found]
        raise BadInput(f"not read as ONNX: {'; '.join(words or log.errors)}")
    config = builder.create_builder_config()
    _set_precision(trt, config, network, precision)
    _set_options(trt, config, build)
    _attach_timings(config, build.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BadInput(f"not built: {'; '.join(log.errors)}")
    _keep_timings(config, build.timing_cache)
    return plan


def _set_precision(trt: Any, config: Any, network: Any, precision: str) -> None:
    """Refuse a model that falls short of the precision; up to TensorRT 10, allow the builder the kernels of it."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantised = any(layer.type in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE) for layer in layers)
    half = any(layer.get_output(i).dtype == trt.DataType.HALF for layer in layers for i in range(layer.num_outputs))
    chooses = hasattr(trt.BuilderFlag, "FP16")
    if precision == "int8" and not quantised:
        raise BadInput("precision int8, but the model has no QuantizeLinear nodes")
    if precision == "fp16" and not half and not chooses:
        raise BadInput("precision fp16, but nothing in the model is float16: from TensorRT 11 on the model decides")
    if chooses and (half or precision == "fp16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if chooses and quantised:
        config.set_flag(trt.BuilderFlag.INT8)


def _set_options(trt: Any, config: Any, build: Build) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for nodes_of_layers; the kernels stay the same
    level = getattr(trt.HardwareCompatibilityLevel, build.hardware_compatibility, None)
    if level is None:
        raise BadInput(f"TensorRT {trt.__version__} has no hardware compatibility {build.hardware_compatibility!r}")
    config.hardware_compatibility_level = level
    if build.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, build.workspace_bytes)
    if build.optimization_level is not None:
        config.builder_optimization_level = build.optimization_level
    if build.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if not build.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)


def _attach_timings(config: Any, path: str | None) -> None:
    known = _timings.get(path) or (Path(path).read_bytes() if path and os.path.exists(path) else b"")
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):  # damaged, or of another GPU
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timings(config: Any, path: str | None) -> None:
    _timings[path] = bytes(config.get_timing_cache().serialize())
    if path:
        temporary = Path(f"{path}.{os.getpid()}")
        temporary.write_bytes(_timings[path])
        temporary.replace(path)


def nodes_of_layers(trt: Any, engine: Any) -> dict[str, tuple[list[str], str]]:
    """For each layer of a plan, by its name and in order: the ONNX nodes that run in it, and what kind it is.

    A reformatting layer belongs to the nodes whose value it converts, that of an input to the nodes that read it.

    Raises:
        NotInstrumented: the plan does not say.
    """
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text, strict=False)["Layers"]
    if not all(isinstance(layer, dict) for layer in layers):
        raise NotInstrumented("the plan was built without detailed profiling verbosity")
    nodes: list[list[str]] = []
    makers: dict[str, list[str]] = {}
    for layer in layers:
        own = [] if layer["Name"].startswith("Reformatting CopyNode") else _NODE.findall(layer.get("Metadata", ""))
        nodes.append(own or _first(makers, layer["Inputs"]))
        makers.update((value["Name"], nodes[-1]) for value in layer["Outputs"])
    readers: dict[str, list[str]] = {}
    for index, layer in reversed(list(enumerate(layers))):
        nodes[index] = nodes[index] or _first(readers, layer["Outputs"])
        readers.update((value["Name"], nodes[index]) for value in layer["Inputs"])
    return {layer["Name"]: (nodes[index], layer["LayerType"]) for index, layer in enumerate(layers)}


def _first(nodes: dict[str, list[str]], values: list[dict[str, Any]]) -> list[str]:
    return next((nodes[value["Name"]] for value in values if nodes.get(value["Name"])), [])
