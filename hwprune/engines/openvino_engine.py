"""OpenVINO on the CPU; what its own profile says of an operator is the most exact there is."""

from __future__ import annotations

import functools
import importlib
import importlib.util
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
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def available(device: str = "cpu") -> str | None:
    """Why it cannot run on this device, with what to install; None if it can."""
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed; run: pip install openvino"
    return None


def version() -> str:
    """Version of the runtime."""
    return str(importlib.import_module("openvino").__version__).partition("-")[0]  # without its build number


class Engine:
    """An ONNX model (bytes or path) compiled once, to run many times; see ``hwprune.engines.Engine``.

    One stream of ``threads`` threads; arithmetic in float32 unless the model is quantised, whatever the processor has.

    Raises:
        BadInput: the model cannot be opened.
    """

    cpu_time = True

    def __init__(
        self,
        model: bytes | str,
        *,
        threads: int = 1,
        precision: str = "fp32",  # is in the model
        device: str = "cpu",
        instrumented: bool = False,
    ) -> None:
        openvino = importlib.import_module("openvino")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": instrumented,
        }
        try:
            core = openvino.Core()
            read = core.read_model(model)
            self._compiled = core.compile_model(read, device.upper(), settings)
            self._request = self._compiled.create_infer_request()
            names = [one.get_friendly_name() for one in (*read.get_parameters(), *read.get_results())]
            ports = [_port(*pair) for pair in zip(names, (*self._compiled.inputs, *self._compiled.outputs))]
        except Exception as error:  # RuntimeError for all causes, and TypeError
            raise BadInput(f"openvino cannot open the model: {error}") from error
        self.inputs, self.outputs = ports[: len(self._compiled.inputs)], ports[len(self._compiled.inputs) :]
        self._model = model
        self._runs: list[dict[str, tuple[str, float]]] | None = [] if instrumented else None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""
        self.bind(feeds)()
        return [self._request.get_output_tensor(index).data.copy() for index in range(len(self.outputs))]

    def bind(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """The call to time: inputs in place, outputs left in the runtime's memory."""
        openvino, contiguous = importlib.import_module("openvino"), importlib.import_module("numpy").ascontiguousarray
        for index, port in enumerate(self.inputs):
            self._request.set_input_tensor(index, openvino.Tensor(contiguous(feeds[port["name"]])))
        infer = functools.partial(self._request.infer, None, False, True, decode_strings=False)  # nothing is copied
        if self._runs is None:
            return infer
        return functools.partial(self._recorded, infer, self._runs)

    def _recorded(self, infer: Callable[[], object], runs: list[dict[str, tuple[str, float]]]) -> None:
        infer()
        told = self._request.get_profiling_info()
        runs.append({one.node_name: (one.node_type, one.real_time.total_seconds() * 1e3) for one in told})

    def kernels(self) -> list[dict[str, Any]]:
        """See ``hwprune.engines.Engine.kernels``; times are in whole microseconds."""
        if self._runs is None:
            raise NotInstrumented("the engine was opened without timing its kernels")
        content = self._model if isinstance(self._model, bytes) else Path(self._model).read_bytes()
        executed = _Executed(
            self._compiled.get_runtime_model(), sibling("onnx_graph", "hwprune.engines").Graph(content)
        )
        names = list(self._runs[0]) if self._runs else []
        names = [name for name in names if executed.works(name) or any(run[name][1] for run in self._runs)]
        parts = executed.covers(names)
        return [
            {"covers": part, "op": self._runs[0][name][0], "runs_ms": [run[name][1] for run in self._runs]}
            for name, part in zip(names, parts)
        ]

    def close(self) -> None:
        """Nothing is left outside the object."""


def _port(name: str, port: Any) -> dict[str, Any]:
    shape = [None if size.is_dynamic else size.get_length() for size in port.partial_shape]
    dtype = importlib.import_module("numpy").dtype(port.element_type.to_dtype()).name
    return {"name": name.rpartition("/sink_port_")[0] or name, "shape": shape, "dtype": dtype}


class _Executed:
    """The graph that OpenVINO executes, whose operators say which of the given nodes they were made from.

    Attributes:
        nodes: for each operator by name, the given nodes that it names, in the order of the model.
    """

    def __init__(self, model: Any, given: Any) -> None:
        self._given = given
        self._sources: dict[str, list[str]] = {}
        self._readers: dict[str, list[str]] = {}
        self._kinds: dict[str, str] = {}
        self.nodes: dict[str, list[str]] = {}
        self._live: set[str] = set()
        for one in model.get_ordered_ops():
            name, facts = one.get_friendly_name(), one.get_rt_info()
            self._sources[name] = [port.get_source_output().get_node().get_friendly_name() for port in one.inputs()]
            for source in self._sources[name]:
                self._readers.setdefault(source, []).append(name)
            self._kinds[name] = _fact(facts, "layerType")
            if self._kinds[name] == "Input" or any(source in self._live for source in self._sources[name]):
                self._live.add(name)  # what only changes weights was done when the model was compiled
            made_from = {self._resolved(text) for text in _fact(facts, "originalLayersNames").split(",")}
            known = [node.name for node in given.nodes if node.name in made_from and node.name in given.live]
            self.nodes[name] = known if name in self._live else []

    def works(self, name: str) -> bool:
        """Whether an operator runs in every call, even if it is told to have taken no whole microsecond."""
        return name in self._live and self._kinds[name] not in ("Input", "Output", "Reorder", "Reshape")

    def _resolved(self, text: str) -> str:
        """The given node that a name is about: its own, its value's, or either with something added after a slash."""
        while text and text not in self._given.by_name and text not in self._given.producer:
            text = text.rpartition("/")[0]
        known = self._given.by_name.get(text) or self._given.producer.get(text)
        return known.name if known else ""

    def covers(self, names: list[str]) -> list[list[str]]:
        """The given nodes that run in each of the operators, in the order of their execution."""
        owners: dict[str, int] = {}
        for place, name in enumerate(names):
            for node in self._completed(name):
                owners.setdefault(node, place)
        between: dict[str, list[str]] = {}
        for place, name in enumerate(names):
            if not self.nodes[name] and self._kinds[name] != "Reorder":
                between[name] = self._unnamed(name, owners)
                for node in between[name]:
                    owners.setdefault(node, place)
        settled = self._given.settled(owners)
        parts: list[list[str]] = [[] for _ in names]
        for node in self._given.nodes:
            if node.name in settled:
                parts[settled[node.name]].append(node.name)
        found = dict(zip(names, parts))
        return [part or between.get(name) or self._converted(name, found) for name, part in found.items()]

    def _completed(self, name: str) -> list[str]:
        """The nodes that an operator names, and the product before them where it names only what is added to that."""
        nodes = self.nodes[name]
        if self._kinds[name] not in ("Convolution", "Deconvolution", "FullyConnected", "MatMul"):
            return nodes
        path, known = list(nodes), {node for named in self.nodes.values() for node in named}
        while path and not any(self._given.by_name[node].op in _PRODUCTS for node in path):
            above = [self._given.producer.get(value) for value in self._given.by_name[path[0]].inputs]
            free = [one.name for one in above if one and one.name in self._given.live and one.name not in known]
            if len(free) != 1:
                return nodes
            path.insert(0, free[0])
        return path

    def _unnamed(self, name: str, owners: Mapping[str, int]) -> list[str]:
        """The nodes that no operator names, between those of the operators before and the rest."""
        named = {node for nodes in self.nodes.values() for node in nodes}
        found: list[str] = []
        waiting = self._nearest(name, self._sources)[-1:]
        while waiting:
            for value in self._given.by_name[waiting.pop()].outputs:
                for reader in self._given.consumers.get(value, ()):
                    if reader.name not in named and reader.name not in owners and reader.name not in found:
                        found.append(reader.name)
                        waiting.append(reader.name)
        return found or self._nearest(name, self._readers)[:1]

    def _converted(self, name: str, found: Mapping[str, list[str]]) -> list[str]:
        """The node whose value a change of layout converts; of the model's input, the one that reads it."""
        before = self._nearest(name, self._sources, found)
        return before[-1:] or self._nearest(name, self._readers, found)[:1]

    def _nearest(
        self, name: str, edges: Mapping[str, list[str]], found: Mapping[str, list[str]] | None = None
    ) -> list[str]:
        """The nodes of the nearest operator along the edges that has some."""
        waiting, seen = [name], {name}
        while waiting:
            for other in edges.get(waiting.pop(0), ()):
                nodes = (found or {}).get(other) or self.nodes[other]
                if nodes:
                    return nodes
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return []


def _fact(facts: Any, name: str) -> str:
    value = facts[name] if name in facts else ""  # noqa: SIM401 - it is no dict
    return str(getattr(value, "value", value))
