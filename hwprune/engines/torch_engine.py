"""PyTorch without a compiler, on the CPU, or on a GPU as a CUDA graph; runs a program of ``torch.export``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import time
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
_WARMUPS = 3  # calls before a CUDA graph is captured


def available(device: str = "cpu") -> str | None:
    """Why it cannot run on this device, with what to install; None if it can."""
    if importlib.util.find_spec("torch") is None:
        return "the package torch is not installed; run: pip install torch"
    if device == "cuda" and not importlib.import_module("torch").cuda.is_available():
        return "torch finds no GPU here; it needs NVIDIA's driver, and a torch that was built for CUDA (pytorch.org)"
    return None


def version() -> str:
    """Version of the runtime."""
    return str(importlib.import_module("torch").__version__)


class Engine:
    """An archive of ``torch.export`` (bytes or path) opened once, to run many times; see ``hwprune.engines.Engine``.

    Operators run one by one, as torch does without a compiler. On a GPU a bound call replays a CUDA graph, inputs and
    outputs stay in its memory, and the call returns the nanoseconds between two of the GPU's own events.

    Raises:
        BadInput: the archive cannot be opened, or could run code when opened.
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
        self._torch = importlib.import_module("torch")
        try:
            content = Path(model).read_bytes() if isinstance(model, str) else model
        except OSError as error:
            raise BadInput(f"torch cannot open the model: {error}") from error
        program = sibling("torch_archive", "hwprune.engines").load_program(content)
        self._device, self._threads, self.cpu_time = device, threads, device == "cpu"
        if device == "cuda":
            move = importlib.import_module("torch.export.passes").move_to_device_pass
            program = move(program, "cuda")
        self._module, self._specification = program.module(check_guards=False), program.call_spec.in_spec
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = [_port(name, values[name]) for name in signature.user_inputs]
        self.outputs = [_port(name, values[name]) for name in signature.user_outputs]
        self._runs: list[list[tuple[str, str, Callable[[], float]]]] | None = [] if instrumented else None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""
        with self._torch.inference_mode():
            result = self._call(*self._arguments(feeds))
            leaves = importlib.import_module("torch.utils._pytree").tree_leaves(result)
            return [leaf.cpu().numpy() for leaf in leaves]

    def bind(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], Any]:
        """The call to time: inputs in place."""
        positional, named = self._arguments(feeds)
        if self._device == "cuda":
            return _Replayed(self._torch, functools.partial(self._call, positional, named), graph=self._runs is None)

        def call() -> None:
            with self._torch.inference_mode():
                self._call(positional, named)

        return call

    def _arguments(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[list[Any], dict[str, Any]]:
        tensors = []
        for port in self.inputs:
            array = feeds[port["name"]]
            if list(array.shape) != port["shape"] or array.dtype != port["dtype"]:
                raise BadInput(f"input {port['name']!r} is {array.dtype} {list(array.shape)}, the model's is {port}")
            tensors.append(self._torch.tensor(array, device=self._device))
        arguments: tuple[list[Any], dict[str, Any]]
        arguments = importlib.import_module("torch.utils._pytree").tree_unflatten(tensors, self._specification)
        return arguments

    def _call(self, positional: list[Any], named: dict[str, Any]) -> Any:
        if self._torch.get_num_threads() != self._threads:  # which is a setting of the process
            self._torch.set_num_threads(self._threads)
        if self._runs is None:
            return self._module(*positional, **named)
        self._runs.append([])
        return _timed(self._torch, self._module, self._runs[-1], self._device).run(*positional, *named.values())

    def kernels(self) -> list[dict[str, Any]]:
        """See ``hwprune.engines.Engine.kernels``; every operator is one."""
        if self._runs is None:
            raise NotInstrumented("the engine was opened without timing its kernels")
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        runs = [[took() for _, _, took in run] for run in self._runs]
        first = self._runs[0] if self._runs else []
        return [
            {"covers": [name], "op": op, "runs_ms": [run[place] for run in runs]}
            for place, (name, op, _) in enumerate(first)
        ]

    def close(self) -> None:
        """Give back the memory of the program."""
        self._module = None


def _port(name: str, value: Any) -> dict[str, Any]:
    if value is None or not hasattr(value, "dtype"):
        raise BadInput(f"{name!r} is no tensor; only tensors go in and out of an engine")
    return {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).partition(".")[2]}


def _timed(torch: Any, module: Any, seen: list[tuple[str, str, Callable[[], float]]], device: str) -> Any:
    """An interpreter of the program that notes for every operator how to tell what it took, in milliseconds."""

    def begin_and_end(function: Callable[[], Any]) -> tuple[Any, Callable[[], float]]:
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            result = function()
            end.record()
            return result, functools.partial(start.elapsed_time, end)
        begin = time.perf_counter_ns()
        result = function()
        took = (time.perf_counter_ns() - begin) / 1e6
        return result, lambda: took

    class Timed(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, node: Any) -> Any:
            if node.op != "call_function" or not hasattr(node.target, "overloadpacket"):  # weights, parts of a tuple
                return super().run_node(node)
            arguments = self.fetch_args_kwargs_from_env(node)
            result, took = begin_and_end(functools.partial(node.target, *arguments[0], **arguments[1]))
            seen.append((node.name, str(node.target), took))
            return result

    return Timed(module)


class _Replayed:
    """A call on the GPU that returns its time in nanoseconds.

    Attributes:
        clock: whose time that is; copying inputs to the GPU and outputs back is not in it.
    """

    clock = "cuda_events, without transfers"

    def __init__(self, torch: Any, call: Callable[[], Any], *, graph: bool) -> None:
        self._torch, self._launch = torch, call
        self._start, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if graph:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.inference_mode(), torch.cuda.stream(side):
                for _ in range(_WARMUPS):
                    call()
            torch.cuda.current_stream().wait_stream(side)
            captured = torch.cuda.CUDAGraph()
            with torch.inference_mode(), torch.cuda.graph(captured):
                self._result = call()  # its memory is the graph's
            self._launch = captured.replay

    def __call__(self) -> float:
        with self._torch.inference_mode():
            self._start.record()
            self._launch()
            self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1e6
