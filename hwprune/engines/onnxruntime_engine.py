"""ONNX Runtime: its CPU provider, and its CUDA and TensorRT providers where the package has them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput, NotInstrumented, sibling
else:
    from device_runner import BadInput, NotInstrumented, sibling  # beside it on a device

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNELS = True
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_ADDED = re.compile(r"_token_\d+$")  # to the name of a node that was brought into another layout
_NUMPY_DTYPE = {"float": "float32", "double": "float64"}  # where ONNX Runtime's name differs


def available(device: str = "cpu") -> str | None:
    """Why it cannot run on this device, with what to install; None if it can."""
    package = "onnxruntime" if device == "cpu" else "onnxruntime-gpu"
    if importlib.util.find_spec("onnxruntime") is None:
        return f"the package {package} is not installed; run: pip install {package}"
    if device == "cpu" or _PROVIDERS[device] in importlib.import_module("onnxruntime").get_available_providers():
        return None
    return f"this onnxruntime has no {_PROVIDERS[device]}; run: pip uninstall onnxruntime; pip install {package}"


def version() -> str:
    """Version of the runtime."""
    return str(importlib.import_module("onnxruntime").__version__)


class Engine:
    """An ONNX model (bytes or path) opened once, to run many times; see ``hwprune.engines.Engine``.

    All graph optimisations are on, operators run one after another on ``threads`` threads, and these stop spinning
    when a call returns: otherwise they would take the processor from whatever is measured next. On a GPU, inputs and
    outputs stay in its memory: transfers are not in the time of a bound call.

    Raises:
        BadInput: the model cannot be opened.
        NotInstrumented: kernels are to be timed on a GPU, where ONNX Runtime only tells when they were launched.
    """

    def __init__(
        self,
        model: bytes | str,
        *,
        threads: int = 1,
        precision: str = "fp32",  # is in the model
        device: str = "cpu",
        instrumented: bool = False,
    ) -> None:
        ort = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._record = _Record(model, options, device) if instrumented else None
        wanted = [_PROVIDERS[device]] + ([] if device == "cpu" else [_PROVIDERS["cpu"]])
        try:
            self._session = ort.InferenceSession(model, options, providers=wanted)
        except Exception as error:  # a different class per cause, and plain RuntimeError
            self.close()
            raise BadInput(f"onnxruntime cannot open the model: {error}") from error
        if self._session.get_providers()[0] != wanted[0]:
            self.close()
            raise BadInput(f"onnxruntime did not keep to {wanted[0]}: {self._session.get_providers()}")
        self._device = "cpu" if device == "cpu" else "cuda"
        self.cpu_time = device == "cpu"
        self.inputs = [_port(port) for port in self._session.get_inputs()]
        self.outputs = [_port(port) for port in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""
        return list(self._session.run(None, dict(feeds)))

    def bind(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """The call to time: inputs bound once and output memory reused, as a deployed application does.

        Compared with ``run`` it saves a few microseconds of Python, and no arithmetic.
        """
        contiguous, binding = importlib.import_module("numpy").ascontiguousarray, self._session.io_binding()
        place = importlib.import_module("onnxruntime").OrtValue.ortvalue_from_numpy
        for port in self.inputs:
            array = contiguous(feeds[port["name"]])
            if self._device == "cpu":
                binding.bind_cpu_input(port["name"], array)
            else:
                binding.bind_ortvalue_input(port["name"], place(array, self._device, 0))
        for port in self.outputs:
            binding.bind_output(port["name"], self._device)
        return functools.partial(self._session.run_with_iobinding, binding)

    def kernels(self) -> list[dict[str, Any]]:
        """See ``hwprune.engines.Engine.kernels``; times are in whole microseconds."""
        if self._record is None:
            raise NotInstrumented("the engine was opened without timing its kernels")
        return self._record.kernels(self._session)

    def close(self) -> None:
        """Give back the files of the recording."""
        if self._record is not None:
            self._record.remove()


def _port(port: Any) -> dict[str, Any]:
    kind, shape = port.type[7:-1], [size if isinstance(size, int) else None for size in port.shape]  # "tensor(float)"
    return {"name": port.name, "shape": shape, "dtype": _NUMPY_DTYPE.get(kind, kind)}


class _Record:
    """ONNX Runtime's profile of a session, and the graph that it executes, in a folder of their own."""

    def __init__(self, model: bytes | str, options: Any, device: str) -> None:
        if device != "cpu":
            raise NotInstrumented("onnxruntime times its kernels on the CPU only; on a GPU it times their launch")
        self._model = model
        self._found: list[dict[str, Any]] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="onnxruntime-"))
        options.enable_profiling = True
        options.profile_file_prefix = str(self._folder / "profile")
        options.optimized_model_filepath = str(self._folder / "executed.onnx")

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def kernels(self, session: Any) -> list[dict[str, Any]]:
        if self._found is None:
            graph = sibling("onnx_graph", "hwprune.engines")
            events = json.loads(Path(session.end_profiling()).read_bytes())
            given = graph.Graph(self._model if isinstance(self._model, bytes) else Path(self._model).read_bytes())
            executed = graph.Graph((self._folder / "executed.onnx").read_bytes())
            self.remove()
            self._found = _kernels(events, given, executed)
        return self._found


def _kernels(events: list[dict[str, Any]], given: Any, executed: Any) -> list[dict[str, Any]]:
    """The kernels in the order of execution; what each took is in one event per call, named after it."""
    times: dict[tuple[str, str], list[float]] = {}  # by name of the event and number of the node
    calls = 0
    for event in events:
        if event["name"] == "model_run":
            calls += 1
        elif event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"][: -len("_kernel_time")], event["args"]["node_index"])
            times.setdefault(key, []).append(event["dur"] / 1e3)
    waiting: dict[str, list[Any]] = {}
    for node in executed.nodes:
        waiting.setdefault(node.name, []).append(node)
    for node in executed.nodes:  # one without a name of its own is announced by its operator and number
        waiting.setdefault(node.op, []).append(node)
    order, runs = [], []
    for (name, number), seen in times.items():
        left = waiting.get(name) or waiting.get(name[: -len(number) - 1] if name.endswith(f"_{number}") else "")
        if left and len(seen) == calls:  # else it is inside a loop or a branch, whose own event counts it
            order.append(left.pop(0))
            runs.append(seen)
    owners = _covers(given, executed, order)
    return [{"covers": c, "op": node.op, "runs_ms": ms} for c, node, ms in zip(owners, order, runs)]


def _covers(given: Any, executed: Any, order: list[Any]) -> list[list[str]]:
    """For each executed node, the names of the given nodes that run in it.

    A fused kernel writes a value of the given model, or into a blocked layout, and is then named after one. The nodes
    between that value and what the kernel reads run in it; so do those that follow, up to what another one writes.
    """
    heads = [_head(given, node) for node in order]
    owners: dict[str, int] = {}
    for place, head in enumerate(heads):
        if head is not None and not _converts(order[place]):
            owners.setdefault(head.name, place)
    parts = [[] if head is None else _behind(given, executed, node, head, owners) for node, head in zip(order, heads)]
    for place, part in enumerate(parts):
        for name in part if not _converts(order[place]) else ():
            owners.setdefault(name, place)
    settled = given.settled(owners)
    for place, part in enumerate(parts):
        part[:] = [node.name for node in given.nodes if node.name in part or settled.get(node.name) == place]
    known = {node.outputs[0]: part for node, part in zip(order, parts) if part}
    parts = [part or _neighbour(executed, node, known) for node, part in zip(order, parts)]
    anything = next((part for part in parts if part), [])
    return [part or anything[:1] for part in parts]


def _converts(node: Any) -> bool:
    return node.op in ("ReorderInput", "ReorderOutput")


def _head(given: Any, node: Any) -> Any:
    """The given node whose value an executed node writes, or converts; None where neither it nor its name tells."""
    for value in (*node.outputs, *(node.inputs if _converts(node) else ())):
        if value in given.producer:
            return given.producer[value]
    if _converts(node):  # of an input of the model: for the node that reads it
        return next(iter(given.consumers.get(node.inputs[0], ())), None)
    name = _ADDED.sub("", node.name.split("/")[0])
    for ending in ("_nchwc", "_bn"):  # of a blocked layout, and there of a normalisation that became a convolution
        name = name[: -len(ending)] if name.endswith(ending) and name not in given.producer else name
    return given.producer.get(name) or given.by_name.get(name)


def _behind(given: Any, executed: Any, node: Any, head: Any, owners: Mapping[str, int]) -> list[str]:
    if _converts(node):
        return [head.name]
    if all(value in given.producer or value not in executed.producer for value in node.inputs):
        others = (value for name in owners if name != head.name for value in given.by_name[name].outputs)
        return [one.name for one in given.behind(head, {*node.inputs, *others})]
    chain, one = [head.name], head  # what it reads has a name of its own: back to the operator that it is named for
    while node.op not in (one.op, f"QLinear{one.op}", f"Q{one.op}"):  # the last two compute in 8 bits
        above = [given.producer[value] for value in one.inputs if value in given.producer]
        above = [producer for producer in above if producer.name in given.live]
        if len(above) != 1 or above[0].name in owners:
            return [head.name]
        one = above[0]
        chain.insert(0, one.name)
    return chain


def _neighbour(executed: Any, node: Any, known: Mapping[str, list[str]]) -> list[str]:
    """The given node that an executed node without a trace of one works for: the next one's, or the last one's."""
    after, seen = [node], {node.name}
    while after:
        for reader in executed.consumers.get(after.pop(0).outputs[0], ()):
            if reader.outputs[0] in known:
                return known[reader.outputs[0]][:1]
            if reader.name not in seen:
                seen.add(reader.name)
                after.append(reader)
    before = [known[value] for value in node.inputs if value in known]
    return before[0][-1:] if before else []
