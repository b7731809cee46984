"""CUDA's runtime library through ctypes: what an engine on a GPU needs of it.

Stands beside ``device_runner.py`` on a device; needs Python 3.8 and the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput
else:
    from device_runner import BadInput  # beside it on a device

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so", "/usr/local/cuda/lib64/libcudart.so")
_LIBRARIES_OF_PIP = ("cu13/lib/libcudart.so.13", "cuda_runtime/lib/libcudart.so.12")
_ANY, _OUT, _INT, _FLAGS = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_uint
PROTOTYPES: dict[str, tuple[Any, ...]] = {  # the same in CUDA 12 and 13
    "cudaEventCreateWithFlags": (_OUT, _FLAGS),
    "cudaEventDestroy": (_ANY,),
    "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _ANY, _ANY),
    "cudaEventRecordWithFlags": (_ANY, _ANY, _FLAGS),
    "cudaFree": (_ANY,),
    "cudaFreeHost": (_ANY,),
    "cudaGetDeviceCount": (ctypes.POINTER(_INT),),
    "cudaGraphDestroy": (_ANY,),
    "cudaGraphExecDestroy": (_ANY,),
    "cudaGraphInstantiateWithFlags": (_OUT, _ANY, ctypes.c_ulonglong),
    "cudaGraphLaunch": (_ANY, _ANY),
    "cudaMalloc": (_OUT, ctypes.c_size_t),
    "cudaMallocHost": (_OUT, ctypes.c_size_t),
    "cudaMemcpyAsync": (_ANY, _ANY, ctypes.c_size_t, _INT, _ANY),
    "cudaStreamBeginCapture": (_ANY, _INT),
    "cudaStreamCreateWithFlags": (_OUT, _FLAGS),
    "cudaStreamDestroy": (_ANY,),
    "cudaStreamEndCapture": (_ANY, _OUT),
    "cudaStreamSynchronize": (_ANY,),
}
CONSTANTS = {
    "cudaEventDefault": 0,
    "cudaEventRecordDefault": 0,
    "cudaEventRecordExternal": 1,  # in a graph: the GPU records it at every replay
    "cudaMemcpyDeviceToHost": 2,
    "cudaMemcpyHostToDevice": 1,
    "cudaStreamCaptureModeThreadLocal": 1,
    "cudaStreamNonBlocking": 1,
}


class Cuda:
    """A libcudart. Constants are passed by name; a call that fails raises RuntimeError in CUDA's words."""

    def __init__(self, library: Any) -> None:
        self._functions = {name: getattr(library, name) for name in PROTOTYPES}
        for name, function in self._functions.items():
            function.argtypes, function.restype = PROTOTYPES[name], _INT
        self._explain = library.cudaGetErrorString
        self._explain.argtypes, self._explain.restype = (_INT,), ctypes.c_char_p

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function by its name."""
        status = self._functions[name](*(CONSTANTS[one] if isinstance(one, str) else one for one in arguments))
        if status:
            raise RuntimeError(f"{name}: {self._explain(status).decode()}")

    def make(self, undo: contextlib.ExitStack, name: str, *arguments: Any, release: str) -> int:
        """Create something and return its handle or address; closing ``undo`` releases it."""
        handle = ctypes.c_void_p()
        self(name, ctypes.byref(handle), *arguments)
        undo.callback(self, release, handle.value)
        return handle.value or 0


@functools.lru_cache(maxsize=None)
def load() -> Cuda:
    """CUDA, through the first libcudart that finds a GPU.

    Raises:
        BadInput: none does.
    """
    packages, problem = importlib.util.find_spec("nvidia"), "no libcudart found"
    folders = list(packages.submodule_search_locations or ()) if packages else []
    for path in (*_LIBRARIES, *(os.path.join(folder, name) for folder in folders for name in _LIBRARIES_OF_PIP)):
        try:
            cuda = Cuda(ctypes.CDLL(path))
            cuda("cudaGetDeviceCount", ctypes.byref(_INT()))  # fails when there is none
            return cuda
        except OSError:  # not there
            pass
        except RuntimeError as error:
            problem = str(error)
    raise BadInput(f"no GPU that CUDA can use: {problem}")
