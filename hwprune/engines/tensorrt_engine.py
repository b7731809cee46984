"""TensorRT: runs a plan, built here from an ONNX model, and times it by the GPU's own clock.

Needs Python 3.8, numpy, TensorRT (10.3 of JetPack 6, to 11) and CUDA's libcudart; on a device, ``cudart.py`` and
``tensorrt_plan.py`` beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput, NotInstrumented, sibling
else:
    from device_runner import BadInput, NotInstrumented, sibling  # beside it on a device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwprune.engines import cudart, tensorrt_plan
else:
    cudart, tensorrt_plan = (sibling(name, "hwprune.engines") for name in ("cudart", "tensorrt_plan"))
KERNELS = True
_plans: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()  # those of open engines


def available(device: str = "cuda") -> str | None:
    """Why it cannot run here, with what to install; None if it can."""
    if importlib.util.find_spec("tensorrt") is None:
        return (
            "the package tensorrt is not installed; run: pip install tensorrt-cu13 (with CUDA 12: tensorrt-cu12);"
            " on a Jetson it comes with JetPack: use the system's python3, or a virtual environment made with"
            " --system-site-packages"
        )
    try:
        version()
        cudart.load()
    except (ImportError, OSError, BadInput) as error:
        return f"the package tensorrt is installed, but cannot run here: {error}"
    return None


def version() -> str:
    """Version of the runtime."""
    return str(importlib.import_module("tensorrt").__version__)


class TimedCall:
    """Runs the bound engine once and returns how long the GPU worked, in nanoseconds between two of its own events.

    Attributes:
        clock: says whether copying inputs to the GPU and outputs back is in the time. Where it is not, the time is what
            trtexec calls GPU Compute Time.
    """

    def __init__(self, launch: Callable[[], None], elapsed_ns: Callable[[], float], *, transfers: bool) -> None:
        self._launch, self._elapsed_ns = launch, elapsed_ns
        self.clock = f"cuda_events, {'with' if transfers else 'without'} transfers"

    def __call__(self) -> float:
        """Run once."""
        self._launch()
        return self._elapsed_ns()


class Engine:
    """A model opened on the first GPU, to run many times; see ``hwprune.engines.Engine``.

    Engines opened from the same model share its plan, so that the instrumented one runs the same kernels.

    Args:
        model: an ONNX model with fixed shapes and its weights inside, or its path; with ``trusted_plan`` a plan.
        threads: without meaning on a GPU.
        precision: ``fp32``, ``fp16`` or ``int8``; it is in the model, and one that falls short of it is refused. Only
            up to TensorRT 10 can a float32 model be run in fp16. A plan is what it is.
        device: without meaning here.
        instrumented: time every kernel; calls then take longer.
        build: how the plan is built.
        trusted_plan: the model is a serialised plan. A plan is executable code: say so only of one that you built, or
            whose hash was compared with one that you trust.

    Raises:
        BadInput: the model cannot be opened.
        NotInstrumented: the plan does not tell which nodes its kernels run.
    """

    cpu_time = False

    def __init__(
        self,
        model: bytes | str,
        *,
        threads: int = 1,
        precision: str = "fp32",
        device: str = "cuda",
        instrumented: bool = False,
        build: tensorrt_plan.Build | None = None,
        trusted_plan: bool = False,
    ) -> None:
        trt, self._undo = importlib.import_module("tensorrt"), contextlib.ExitStack()
        self._release = weakref.finalize(self, self._undo.close)  # at the latest with the engine
        build, self._profile = build or tensorrt_plan.Build(), _make_profile(trt) if instrumented else None
        try:
            content = Path(model).read_bytes() if isinstance(model, str) else model
            key = (hashlib.sha256(content).digest(), precision, build, trusted_plan)
            self._cuda = cudart.load()
            settings: dict[str, Any] = {"precision": precision, "build": build, "trusted": trusted_plan}
            self._plan: Any = _plans.get(key) or tensorrt_plan.Plan(trt, content, **settings)
            _plans[key] = self._plan
            self._open(trt)
        except NotInstrumented:
            self.close()
            raise
        except Exception as error:  # BadInput, OSError, CUDA's, and TypeError where TensorRT's factories fail
            self.close()
            raise BadInput(f"tensorrt cannot open the model: {error}") from error

    def _open(self, trt: Any) -> None:
        engine, cuda = self._plan.engine, self._cuda
        self.inputs, self.outputs = _ports(trt, engine)
        self._layers = tensorrt_plan.nodes_of_layers(trt, engine) if self._profile else {}
        self._context = engine.create_execution_context()
        if self._profile:
            self._context.profiler = self._profile
        self._stream = cuda.make(
            self._undo, "cudaStreamCreateWithFlags", "cudaStreamNonBlocking", release="cudaStreamDestroy"
        )
        self._addresses = {}
        for port in self.inputs + self.outputs:
            address = cuda.make(self._undo, "cudaMalloc", max(1, _size(port)), release="cudaFree")
            self._addresses[port["name"]] = address
            if not self._context.set_tensor_address(port["name"], address):
                raise BadInput(f"no place for {port['name']!r}: {'; '.join(self._plan.log.errors)}")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""
        empty = importlib.import_module("numpy").empty
        arrays = self._arrays(feeds)
        results = {port["name"]: empty(port["shape"], port["dtype"]) for port in self.outputs}
        self._copy_in({name: array.ctypes.data for name, array in arrays.items()})
        self._enqueue()
        self._copy_out({name: array.ctypes.data for name, array in results.items()})
        self._cuda("cudaStreamSynchronize", self._stream)
        return list(results.values())

    def bind(self, feeds: Mapping[str, NDArray[Any]], *, transfers: bool = False) -> TimedCall:
        """The call to time: one CUDA graph of all kernels, its events inside, inputs and outputs in the GPU's memory.

        Args:
            feeds: arrays by input name.
            transfers: the graph also copies the inputs from page-locked memory, and the outputs back there.
        """
        sources, sinks = ({port["name"]: self._pinned(port) for port in ports} for ports in (self.inputs, self.outputs))
        for name, array in self._arrays(feeds).items():
            ctypes.memmove(sources[name], array.ctypes.data, array.nbytes)
        event = functools.partial(
            self._cuda.make, self._undo, "cudaEventCreateWithFlags", "cudaEventDefault", release="cudaEventDestroy"
        )
        start, stop = event(), event()

        def enqueue(record: str) -> None:
            self._cuda("cudaEventRecordWithFlags", start, self._stream, record)
            if transfers:
                self._copy_in(sources)
            self._enqueue()
            if transfers:
                self._copy_out(sinks)
            self._cuda("cudaEventRecordWithFlags", stop, self._stream, record)

        self._copy_in(sources)
        enqueue("cudaEventRecordDefault")  # TensorRT leaves things to its first call that no graph may hold
        self._cuda("cudaStreamSynchronize", self._stream)
        launch = functools.partial(enqueue, "cudaEventRecordDefault") if self._profile else self._captured(enqueue)
        return TimedCall(launch, functools.partial(self._elapsed_ns, start, stop), transfers=transfers)

    def _captured(self, enqueue: Callable[[str], None]) -> Callable[[], None]:
        """Launches what ``enqueue`` enqueues, as a CUDA graph."""
        graph = ctypes.c_void_p()
        self._cuda("cudaStreamBeginCapture", self._stream, "cudaStreamCaptureModeThreadLocal")
        try:
            enqueue("cudaEventRecordExternal")
        finally:
            self._cuda("cudaStreamEndCapture", self._stream, ctypes.byref(graph))
        executable = self._cuda.make(
            self._undo, "cudaGraphInstantiateWithFlags", graph.value, 0, release="cudaGraphExecDestroy"
        )
        self._cuda("cudaGraphDestroy", graph.value)
        return functools.partial(self._cuda, "cudaGraphLaunch", executable, self._stream)

    def _elapsed_ns(self, start: int, stop: int) -> float:
        milliseconds = ctypes.c_float()
        self._cuda("cudaStreamSynchronize", self._stream)
        self._cuda("cudaEventElapsedTime", ctypes.byref(milliseconds), start, stop)
        return milliseconds.value * 1e6

    def _enqueue(self) -> None:
        if self._profile:
            self._profile.runs.append([])
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError(f"tensorrt cannot run the model: {'; '.join(self._plan.log.errors)}")

    def _copy_in(self, sources: Mapping[str, int]) -> None:
        for port in self.inputs:
            place, source = self._addresses[port["name"]], sources[port["name"]]
            self._cuda("cudaMemcpyAsync", place, source, _size(port), "cudaMemcpyHostToDevice", self._stream)

    def _copy_out(self, sinks: Mapping[str, int]) -> None:
        for port in self.outputs:
            place, sink = self._addresses[port["name"]], sinks[port["name"]]
            self._cuda("cudaMemcpyAsync", sink, place, _size(port), "cudaMemcpyDeviceToHost", self._stream)

    def _pinned(self, port: dict[str, Any]) -> int:
        return self._cuda.make(self._undo, "cudaMallocHost", max(1, _size(port)), release="cudaFreeHost")

    def _arrays(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The inputs by name, laid out as the GPU reads them."""
        np, arrays = importlib.import_module("numpy"), {}
        for port in self.inputs:
            array = arrays[port["name"]] = np.asarray(feeds[port["name"]], order="C")
            if list(array.shape) != port["shape"] or array.dtype != port["dtype"]:
                raise BadInput(f"input {port['name']!r} is {array.dtype} {list(array.shape)}, the model's is {port}")
        return arrays

    def kernels(self) -> list[dict[str, Any]]:
        """See ``hwprune.engines.Engine.kernels``; the GPU waits between kernels, so that their shares are right."""
        if self._profile is None:
            raise NotInstrumented("the engine was opened without timing its kernels")
        runs = self._profile.runs
        names = [name for name, _ in runs[0]] if runs else []
        if any([name for name, _ in run] != names for run in runs):
            raise NotInstrumented("tensorrt did not run the same kernels in every call")
        found = [(*self._layers.get(name, ([], name)), [run[i][1] for run in runs]) for i, name in enumerate(names)]
        return [{"covers": covers, "op": op, "runs_ms": times} for covers, op, times in found]

    def close(self) -> None:
        """Give back the GPU's memory."""
        self._context = self._plan = self._profile = None
        self._release()


def _make_profile(trt: Any) -> Any:
    class Profile(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.runs: list[list[tuple[str, float]]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.runs[-1].append((layer_name, ms))

    return Profile()


def _ports(trt: Any, engine: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs of a plan."""
    numpy_type = importlib.import_module("numpy").dtype
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    for name in [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]:
        shape = [int(size) for size in engine.get_tensor_shape(name)]
        if min(shape, default=1) < 0 or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BadInput(f"{name!r} has no fixed shape: {shape}")
        dtype = numpy_type(trt.nptype(engine.get_tensor_dtype(name))).name
        ports = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        ports.append({"name": name, "shape": shape, "dtype": dtype})
    return inputs, outputs


def _size(port: dict[str, Any]) -> int:
    """Bytes."""
    np = importlib.import_module("numpy")
    return int(np.prod(port["shape"], dtype=int)) * int(np.dtype(port["dtype"]).itemsize)
