"""What TensorRT does, for the strict package: plans are ONNX models, which ONNX Runtime runs when the GPU's turn comes.

It insists on what the real one does: the parser lives until the plan is built, every tensor has an address, the first
call is not captured, shapes are fixed, an executable plan is allowed on purpose.
"""

from __future__ import annotations

import ctypes
import json
import weakref
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, shape_inference

PLAN = b"plan:"
_TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT64: "INT64", TensorProto.INT8: "INT8"}
_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT8": np.int8}
_LAYERS = {"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Conv": "CONVOLUTION", "Relu": "ACTIVATION"}


class Machine:
    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu
        self.execute_ms = 2.0  # what one call takes on the GPU
        self.package: Any = None  # set by who makes both
        self.builds: list[dict[str, Any]] = []  # what every plan was built with

    def _log(self, logger: Any, severity: str, text: str) -> None:
        logger.log(self.package.types["Severity"][severity], text)

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        return namespace == ""

    def nptype(self, trt_type: Any) -> Any:
        if trt_type.name not in _NUMPY:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return _NUMPY[trt_type.name]

    # building

    def Builder___init__(self, builder: Any, logger: Any) -> None:
        builder._logger = logger

    def Builder_create_network(self, builder: Any, flags: int = 0) -> Any:
        return self.package.new("INetworkDefinition", _model=None, _parser=None)

    def Builder_create_builder_config(self, builder: Any) -> Any:
        on = {self.package.types["BuilderFlag"].TF32}
        return self.package.new("IBuilderConfig", _on=on, _pools={}, _cache=None, _builder_optimization_level=3)

    def OnnxParser___init__(self, parser: Any, network: Any, logger: Any) -> None:
        parser._network, parser._logger, parser._errors = network, logger, []

    def OnnxParser_parse(self, parser: Any, model: Any, path: str | None = None) -> bool:
        try:
            proto = onnx.load_model_from_string(bytes(model))
            onnx.checker.check_model(proto)
        except Exception:
            self._log(parser._logger, "ERROR", "ModelImporter: Failed to parse ONNX model")
            return False
        parser._errors = [("no importer registered", node) for node in proto.graph.node if node.op_type == "Det"]
        parser._network._model, parser._network._parser = shape_inference.infer_shapes(proto), weakref.ref(parser)
        return not parser._errors

    def OnnxParser_num_errors(self, parser: Any) -> int:
        return len(parser._errors)

    def OnnxParser_get_error(self, parser: Any, index: int) -> Any:
        return self.package.new("ParserError", _error=parser._errors[index])

    def ParserError_desc(self, error: Any) -> str:
        return str(error._error[0])

    def ParserError_node_name(self, error: Any) -> str:
        return str(error._error[1].name)

    def ParserError_node_operator(self, error: Any) -> str:
        return str(error._error[1].op_type)

    def INetworkDefinition_num_layers(self, network: Any) -> int:
        return len(network._model.graph.node)

    def INetworkDefinition_get_layer(self, network: Any, index: int) -> Any:
        graph = network._model.graph
        known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
        dtypes = [_TYPES[known[name]] for name in graph.node[index].output]
        return self.package.new("ILayer", _op=graph.node[index].op_type, _dtypes=dtypes)

    def ILayer_type(self, layer: Any) -> Any:
        return self.package.types["LayerType"][_LAYERS.get(layer._op, "ELEMENTWISE")]

    def ILayer_num_outputs(self, layer: Any) -> int:
        return len(layer._dtypes)

    def ILayer_get_output(self, layer: Any, index: int) -> Any:
        return self.package.new("ITensor", _dtype=self.package.types["DataType"][layer._dtypes[index]])

    def IBuilderConfig_set_flag(self, config: Any, flag: Any) -> None:
        config._on.add(flag)

    def IBuilderConfig_clear_flag(self, config: Any, flag: Any) -> None:
        config._on.discard(flag)

    def IBuilderConfig_set_memory_pool_limit(self, config: Any, pool: Any, pool_size: int) -> None:
        config._pools[pool.name] = pool_size

    def IBuilderConfig_create_timing_cache(self, config: Any, serialized_timing_cache: Any) -> Any:
        content = bytes(serialized_timing_cache)
        return None if content.startswith(b"damaged") else self.package.new("ITimingCache", _content=content)

    def IBuilderConfig_set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        fits = ignore_mismatch or not cache._content.startswith(b"another GPU")
        config._cache = cache if fits else config._cache
        return fits

    def IBuilderConfig_get_timing_cache(self, config: Any) -> Any:
        return config._cache

    def ITimingCache_serialize(self, cache: Any) -> Any:
        return self.package.new("IHostMemory", _content=cache._content)

    def Builder_build_serialized_network(self, builder: Any, network: Any, config: Any) -> Any:
        assert network._parser() is not None, "the parser held the weights, and is gone"
        inputs = network._model.graph.input
        if any(not size.dim_value for value in inputs for size in value.type.tensor_type.shape.dim):
            self._log(builder._logger, "WARNING", "this is no error")
            self._log(builder._logger, "ERROR", "no optimization profile has been defined")
            return None
        self.builds.append(
            {
                "flags": {flag.name for flag in config._on},
                "known": config._cache._content,
                "workspace": config._pools.get("WORKSPACE"),
                "level": config._builder_optimization_level,
                "compatibility": config._hardware_compatibility_level.name,
            }
        )
        config._cache._content += b"timed;"
        verbosity = config._profiling_verbosity.name.encode()
        lean = b"lean" if "VERSION_COMPATIBLE" in self.builds[-1]["flags"] else b"full"
        content = PLAN + verbosity + b":" + lean + b":" + network._model.SerializeToString()
        return self.package.new("IHostMemory", _content=content)

    # running

    def Runtime___init__(self, runtime: Any, logger: Any) -> None:
        runtime._logger, runtime._engine_host_code_allowed = logger, False

    def Runtime_deserialize_cuda_engine(self, runtime: Any, serialized_engine: Any) -> Any:
        magic, verbosity, lean, model = (bytes(serialized_engine).split(b":", 3) + [b""] * 3)[:4]
        if magic + b":" != PLAN or (lean == b"lean" and not runtime._engine_host_code_allowed):
            self._log(runtime._logger, "INTERNAL_ERROR", "Magic tag does not match")
            return None
        return self.package.new("ICudaEngine", _verbosity=verbosity.decode(), _model=onnx.load_model_from_string(model))

    def _values(self, engine: Any) -> dict[str, Any]:
        return {value.name: value for value in (*engine._model.graph.input, *engine._model.graph.output)}

    def ICudaEngine_num_io_tensors(self, engine: Any) -> int:
        return len(self._values(engine))

    def ICudaEngine_get_tensor_name(self, engine: Any, index: int) -> str:
        return list(self._values(engine))[index]

    def ICudaEngine_get_tensor_shape(self, engine: Any, name: str) -> Any:
        sizes = [one.dim_value or -1 for one in self._values(engine)[name].type.tensor_type.shape.dim]
        return self.package.new("Dims", _sizes=sizes)

    def Dims___len__(self, dims: Any) -> int:
        return len(dims._sizes)

    def Dims___getitem__(self, dims: Any, arg0: int) -> int:
        return int(dims._sizes[arg0])

    def ICudaEngine_get_tensor_dtype(self, engine: Any, name: str) -> Any:
        return self.package.types["DataType"][_TYPES[self._values(engine)[name].type.tensor_type.elem_type]]

    def ICudaEngine_get_tensor_location(self, engine: Any, name: str) -> Any:
        return self.package.types["TensorLocation"].DEVICE

    def ICudaEngine_get_tensor_mode(self, engine: Any, name: str) -> Any:
        outputs = [value.name for value in engine._model.graph.output]
        return self.package.types["TensorIOMode"]["OUTPUT" if name in outputs else "INPUT"]

    def ICudaEngine_create_engine_inspector(self, engine: Any) -> Any:
        return self.package.new("EngineInspector", _engine=engine)

    def _layers(self, engine: Any) -> list[dict[str, Any]]:
        """Two nodes to a kernel, and a reformatting of the first input before and of the first value between."""
        nodes, values = list(engine._model.graph.node), list(self._values(engine))
        found = [layer_of("Reformatting CopyNode for Input Tensor 0 to it", [values[0]], ["reformatted"], [])]
        for start in range(0, len(nodes), 2):
            pair = nodes[start : start + 2]
            reads = ["reformatted" if name == values[0] else name for name in pair[0].input]
            found.append(layer_of(" + ".join(node.name for node in pair), reads, list(pair[-1].output), pair))
        if len(found) > 2:
            value = found[1]["Outputs"][0]["Name"]
            found.insert(
                2, layer_of("Reformatting CopyNode for Output Tensor 0 to it", [value], ["turned"], nodes[2:3])
            )
        return found

    def EngineInspector_get_engine_information(self, inspector: Any, format: Any) -> str:
        layers = self._layers(inspector._engine)
        detailed = inspector._engine._verbosity == "DETAILED"
        return json.dumps({"Layers": layers if detailed else [layer["Name"] for layer in layers], "Bindings": []})

    def ICudaEngine_create_execution_context(self, engine: Any) -> Any:
        session = onnxruntime.InferenceSession(engine._model.SerializeToString(), providers=["CPUExecutionProvider"])
        return self.package.new(
            "IExecutionContext", _engine=engine, _session=session, _at={}, _warm=False, _profiler=None
        )

    def IExecutionContext_set_tensor_address(self, context: Any, name: str, memory: int) -> bool:
        context._at[name] = memory
        return name in self._values(context._engine)

    def IExecutionContext_execute_async_v3(self, context: Any, stream_handle: int) -> bool:
        if set(context._at) != set(self._values(context._engine)) or (self.gpu.capturing() and not context._warm):
            return False
        context._warm = True
        self.gpu.enqueue(stream_handle, lambda: self._execute(context))
        for index, layer in enumerate(self._layers(context._engine)) if context._profiler else ():
            context._profiler.report_layer_time(layer["Name"], 0.1 * (index + 1))
        return True

    def _execute(self, context: Any) -> None:
        feeds, graph = {}, context._engine._model.graph
        for value in graph.input:
            shape = [one.dim_value for one in value.type.tensor_type.shape.dim]
            array = np.empty(shape, _NUMPY[_TYPES[value.type.tensor_type.elem_type]])
            assert self.gpu.holds(context._at[value.name], array.nbytes, "gpu")
            ctypes.memmove(array.ctypes.data, context._at[value.name], array.nbytes)
            feeds[value.name] = array
        for value, result in zip(graph.output, context._session.run(None, feeds), strict=True):
            assert self.gpu.holds(context._at[value.name], result.nbytes, "gpu")
            ctypes.memmove(context._at[value.name], np.ascontiguousarray(result).ctypes.data, result.nbytes)
        self.gpu.now += self.execute_ms


def layer_of(name: str, inputs: list[str], outputs: list[str], nodes: list[Any]) -> dict[str, Any]:
    """A layer as the engine inspector writes it."""
    return {
        "Name": name,
        "LayerType": "Reformat" if name.startswith("Reformatting") else "CaskConvolution",
        "Inputs": [{"Name": one, "Location": "Device"} for one in inputs],
        "Outputs": [{"Name": one, "Location": "Device"} for one in outputs],
        "Metadata": "\x1f".join(f"[ONNX Layer: {node.name}]" for node in nodes),
    }
