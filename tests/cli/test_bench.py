"""What bench hands to the clock is an engine that the target's runtime opens, and that computes what the model does."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hwprune import device_runner, verbs
from hwprune.deploy import export_onnx
from hwprune.network import load_model
from hwprune.targets import load_target, runtime_for

MODEL, SHAPE = "zoo:digits_resnet", (1, 1, 8, 8)
NUMBERS = {"p50_ms": 2.0, "p90_ms": 3.0, "min_ms": 1.0, "repeats": 5, "clean": 5}


@pytest.fixture
def timed(monkeypatch):
    engines = []

    def measure_one(engine, target):
        engines.append(runtime_for(target).open(engine, target))
        return SimpleNamespace(latency=SimpleNamespace(to_dict=lambda: NUMBERS))

    monkeypatch.setattr(verbs, "measure_one", measure_one)
    return engines


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", "ncnn", "openvino"])
def test_a_model_is_measured_in_the_form_that_the_runtime_opens(runtime, timed):
    target = load_target(f"local-{runtime}")
    document = verbs.bench(MODEL, target=target, input_shape=SHAPE)
    assert (document["latency_ms"]["p50"], document["target"]["runtime"]) == (2.0, runtime)
    _check_engine(timed[0])


def test_an_onnx_file_is_converted_where_the_runtime_takes_something_else(timed, tmp_path):
    torch.manual_seed(0)
    export_onnx(load_model(MODEL).eval(), torch.randn(SHAPE), tmp_path / "model.onnx")
    verbs.bench(tmp_path / "model.onnx", target=load_target("local-ncnn"))
    _check_engine(timed[0])


def _check_engine(engine):
    torch.manual_seed(0)
    feeds = device_runner.example_feeds(engine)
    (found,) = engine.run(feeds)
    wanted = load_model(MODEL).eval()(torch.from_numpy(next(iter(feeds.values())))).detach()
    np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=1e-3)
