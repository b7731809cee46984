"""Fakes of TensorRT and CUDA that hold to what the real ones declare, for both versions that the engine supports."""

from __future__ import annotations

import importlib.util
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwprune.engines import cudart, tensorrt_engine, tensorrt_plan

DATA = Path(__file__).parents[2] / "data"
VERSIONS = {"10.3": "12.6", "11.4": "13.5"}  # of TensorRT, and of CUDA


def load(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"tensorrt_fakes_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


strict, gpu, machine = load("strict"), load("gpu"), load("machine")


@pytest.fixture
def c_type() -> Any:
    """The ctypes type of a C type, by its name."""
    return gpu.c_type


@pytest.fixture(params=VERSIONS)
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """TensorRT and a GPU, as the engine finds them; ``fake.gpu`` is the GPU, ``fake.package.module`` TensorRT."""
    apis = [f"tensorrt_api_{request.param}", f"cudart_api_{VERSIONS[request.param]}"]
    tensorrt_api, cudart_api = (json.loads((DATA / f"{name}.json").read_text()) for name in apis)
    found = machine.Machine(gpu.Gpu(cudart_api))
    found.package = strict.Package(tensorrt_api, found)
    monkeypatch.setitem(sys.modules, "tensorrt", found.package.module)
    present = f"libcudart.so.{VERSIONS[request.param].split('.')[0]}"

    def open_library(name: str, *_: Any) -> Any:
        if name != present:
            raise OSError(f"{name}: cannot open shared object file")
        return found.gpu

    monkeypatch.setattr(cudart.ctypes, "CDLL", open_library)
    monkeypatch.setattr(tensorrt_plan, "_timings", {})
    monkeypatch.setattr(tensorrt_engine, "_plans", weakref.WeakValueDictionary())
    cudart.load.cache_clear()
    yield found
    cudart.load.cache_clear()
