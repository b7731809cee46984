from types import SimpleNamespace

import pytest

from hwprune.deploy import profile_network, profiling
from hwprune.targets import load_target


def test_layers_are_profiled_and_scaled_to_the_measured_whole(monkeypatch, tmp_path):
    target, calls = load_target("local-onnxruntime"), []

    def measure_one(model, where, *, seed):
        calls.append((model, where, seed))
        return SimpleNamespace(latency=SimpleNamespace(p50_ms=3.5))

    monkeypatch.setattr(profiling, "measure_one", measure_one)
    monkeypatch.setattr(profiling, "profile", lambda layers, where, **settings: (layers, where, settings))
    network = SimpleNamespace(layers=("conv", "relu"))
    layers, where, settings = profile_network(network, tmp_path / "dense.onnx", target, points=3, seed=9)
    assert calls == [(tmp_path / "dense.onnx", target, 9)]
    assert (layers, where) == (network.layers, target)
    assert settings == {"points": 3, "seed": 9, "progress": None, "measured_ms": pytest.approx(3.5)}
