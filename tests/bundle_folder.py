"""A small bundle to be spoiled by tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from hwprune import device_runner
from hwprune.deploy.bundle import sealed
from hwprune.targets import device_files

X = np.array([[1.0, -2.0, 3.0]], dtype=np.float32)


class BundleFolder:
    """A bundle whose engine squares its input, to be spoiled by a test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "x"], ["y"])],
            "square",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        self.manifest: dict[str, Any] = {
            "schema_version": 2,
            "target": {"name": "here"},
            "files": {},
            "engine": {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1, "precision": "fp32"},
            "golden": {"file": "golden.npz", "inputs": {"x": "in"}, "outputs": {"y": "out"}, "relative_l2": 1e-4},
            "inputs": [{"name": "x", "shape": [1, 3], "dtype": "float32"}],
            "outputs": [{"name": "y", "shape": [1, 3], "dtype": "float32"}],
            "latency": {"predicted_ms": None, "measured_ms": {"p50_ms": 2.0}, "tolerance": 0.25},
            "preprocessing": {},
            "device": device_runner.fingerprint(),
        }
        self.add("model.onnx", model.SerializeToString())
        for name, content in device_files("onnxruntime").items():
            self.add(name, content)
        self.golden({"in": X, "out": X * X})

    def add(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)
        record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        self.manifest["files"][name] = record
        self.save()

    def golden(self, arrays: dict[str, Any]) -> None:
        np.savez(self.path / "golden.npz", **arrays)
        self.add("golden.npz", (self.path / "golden.npz").read_bytes())

    def save(self) -> None:
        (self.path / "manifest.json").write_bytes(sealed(self.manifest))
