"""A libcudart for ``cudart.py``: it takes the calls that CUDA's headers declare, in memory of this process.

What is enqueued on a stream runs when someone waits for it. While a graph is captured, what cannot be captured is an
error, as on a GPU. Time is a number that work moves on, so that the tests know what is in a measured time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

OK, INVALID, CAPTURING, NO_DEVICE = 0, 1, 900, 100
LAUNCH_MS, COPY_MS = 0.01, 0.25  # from the launch of a graph to its first node; each copy
_C = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_ulonglong,
    "size_t": ctypes.c_size_t,
    "void *": ctypes.c_void_p,
    "int *": ctypes.POINTER(ctypes.c_int),
    "float *": ctypes.POINTER(ctypes.c_float),
    "void **": ctypes.POINTER(ctypes.c_void_p),
}
_ENUMS = ("cudaMemcpyKind", "cudaStreamCaptureMode", "cudaError_t")


def c_type(word: str) -> Any:
    """The ctypes type of a C type; handles are pointers."""
    if word in _ENUMS:
        return ctypes.c_int
    return _C.get(word) or (ctypes.POINTER(ctypes.c_void_p) if word.endswith("*") else ctypes.c_void_p)


class Function:
    """A C function: it must be declared as the header does, and gets as many arguments."""

    def __init__(self, name: str, types: list[str], action: Callable[..., Any]) -> None:
        self.name, self.types, self.action = name, types, action
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        expected = tuple(c_type(word) for word in self.types)
        returns = ctypes.c_char_p if self.name == "cudaGetErrorString" else ctypes.c_int
        assert (self.argtypes, self.restype) == (expected, returns), f"{self.name} is declared wrongly"
        assert len(arguments) == len(expected), f"{self.name} takes {self.types}"
        for argument, word, kind in zip(arguments, self.types, expected, strict=True):
            pointee = getattr(argument, "_obj", None)
            if isinstance(kind, type(ctypes.POINTER(ctypes.c_int))):
                assert isinstance(pointee, kind._type_), f"{self.name} needs a {word}, got {argument!r}"
            else:
                assert isinstance(argument, int), f"{self.name} needs a {word}, got {argument!r}"
        return self.action(*(getattr(argument, "_obj", argument) for argument in arguments))


class Stream:
    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None


class Gpu:
    """What is alive on the GPU is in ``alive``: handles and addresses, with what they are."""

    def __init__(self, api: dict[str, Any], devices: int = 1) -> None:
        self.api, self.devices, self.now = api, devices, 0.0
        self.alive: dict[int, Any] = {}
        self.events: dict[int, float] = {}
        self.failing = ""  # name of a function that fails
        self._functions = {
            name: Function(name, types, getattr(self, f"_{name}")) for name, types in api["functions"].items()
        }

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_") or name not in self._functions:
            raise AttributeError(f"libcudart.so: undefined symbol: {name}")
        return self._functions[name]

    def _made(self, out: Any, kind: Any) -> int:
        handle = ctypes.addressof(kind) if isinstance(kind, ctypes.Array) else id(kind)
        self.alive[handle] = kind
        out.value = handle
        return OK

    def _gone(self, handle: int) -> int:
        return OK if self.alive.pop(handle, None) is not None else INVALID

    def capturing(self) -> bool:
        return any(isinstance(one, Stream) and one.captured is not None for one in self.alive.values())

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Run when its turn comes, or keep for the graph."""
        captured = self.alive[stream].captured
        (self.alive[stream].queue if captured is None else captured).append(work)

    def holds(self, address: int, size: int, kind: str) -> bool:
        """Whether a piece of memory is inside one that was allocated."""
        blocks = ((start, one) for start, one in self.alive.items() if getattr(one, "kind", "") == kind)
        return any(start <= address and address + size <= start + len(one) for start, one in blocks)

    def _allocate(self, out: Any, size: int, kind: str) -> int:
        if self.capturing() or not size:
            return CAPTURING if size else INVALID
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        block.kind = kind  # type: ignore[attr-defined]
        return self._made(out, block)

    def _cudaMalloc(self, out: Any, size: int) -> int:
        return 2 if self.failing == "cudaMalloc" else self._allocate(out, size, "gpu")

    def _cudaMallocHost(self, out: Any, size: int) -> int:
        return self._allocate(out, size, "pinned")

    def _cudaFree(self, address: int) -> int:
        return self._gone(address)

    _cudaFreeHost = _cudaStreamDestroy = _cudaEventDestroy = _cudaGraphDestroy = _cudaGraphExecDestroy = _cudaFree

    def _cudaStreamCreateWithFlags(self, out: Any, flags: int) -> int:
        return self._made(out, Stream()) if flags in (0, 1) else INVALID

    def _cudaEventCreateWithFlags(self, out: Any, flags: int) -> int:
        return self._made(out, {"event"}) if flags == 0 else INVALID  # the others do not take the time

    def _cudaStreamSynchronize(self, stream: int) -> int:
        while self.alive[stream].queue:
            self.alive[stream].queue.pop(0)()
        return CAPTURING if self.capturing() else OK

    def _cudaEventRecordWithFlags(self, event: int, stream: int, flags: int) -> int:
        captures = self.capturing()
        if event not in self.alive or (flags == 1 and not captures):
            return INVALID
        if captures and flags == 0:  # that is an edge of the graph, and the event has no time from now on
            self.events.pop(event, None)
        else:
            self.enqueue(stream, lambda: self.events.update({event: self.now}))
        return OK

    def _cudaEventElapsedTime(self, out: Any, start: int, stop: int) -> int:
        if start not in self.events or stop not in self.events:
            return 400
        out.value = self.events[stop] - self.events[start]
        return OK

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> int:
        gpu, host = (to, source) if kind == 1 else (source, to)
        if kind not in (1, 2) or not self.holds(gpu, size, "gpu"):
            return INVALID
        if self.capturing() and not self.holds(host, size, "pinned"):
            return CAPTURING

        def copy() -> None:
            ctypes.memmove(to, source, size)
            self.now += COPY_MS

        self.enqueue(stream, copy)
        return OK

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> int:
        self.alive[stream].captured = []
        return OK if mode in (0, 1, 2) else INVALID

    def _cudaStreamEndCapture(self, stream: int, out: Any) -> int:
        work, self.alive[stream].captured = self.alive[stream].captured, None
        return self._made(out, ("graph", work))

    def _cudaGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> int:
        return self._made(out, ("executable", self.alive[graph][1])) if flags == 0 else INVALID

    def _cudaGraphLaunch(self, executable: int, stream: int) -> int:
        self.enqueue(stream, self._launch)
        for work in self.alive[executable][1]:
            self.enqueue(stream, work)
        return OK

    def _launch(self) -> None:
        self.now += LAUNCH_MS

    def _cudaGetDeviceCount(self, out: Any) -> int:
        out.value = self.devices
        return OK if self.devices else NO_DEVICE

    def _cudaGetErrorString(self, status: int) -> bytes:
        return {NO_DEVICE: b"no CUDA-capable device is detected", 2: b"out of memory"}.get(status, b"error %d" % status)
