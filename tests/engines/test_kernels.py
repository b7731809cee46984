"""Which nodes run in which kernel, for the runtimes that fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from hwprune import device_runner
from hwprune.engines import onnx_graph
from hwprune.targets import known_targets, runtime_for

from . import networks

RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
    for name in ("onnxruntime", "openvino")
    for reason in [runtime_for(known_targets()[f"local-{name}"]).unavailable()]
]
CHANGES_LAYOUT = ("ReorderInput", "ReorderOutput", "Reorder", "Reshape", "Transpose")


def kernels_of(model: bytes, runtime: str, calls: int = 5) -> list[dict[str, Any]]:
    engine = device_runner.open_engine(model, runtime=runtime, instrumented=True)
    call = engine.bind(device_runner.example_feeds(engine))
    for _ in range(calls):
        call()
    found: list[dict[str, Any]] = engine.kernels()
    engine.close()
    return found


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("build", networks.ALL.values(), ids=networks.ALL)
def test_every_node_runs_somewhere_and_every_product_once(build: Callable[[], networks.Network], runtime: str) -> None:
    net = build()
    kernels = kernels_of(net.serialised(), runtime, calls=3)
    assert {len(kernel["runs_ms"]) for kernel in kernels} == {3}
    assert all(kernel["covers"] for kernel in kernels)
    assert {name for kernel in kernels for name in kernel["covers"]} == {node.name for node in net.nodes}
    working = [kernel for kernel in kernels if kernel["op"] not in CHANGES_LAYOUT]
    for node in net.nodes:
        if node.op_type in networks.PRODUCTS:
            assert sum(node.name in kernel["covers"] for kernel in working) == 1, node.name


def groups(kernels: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    return {tuple(kernel["covers"]) for kernel in kernels}


def test_what_a_residual_block_is_fused_into(runtime: str) -> None:
    found = groups(kernels_of(networks.residual().serialised(), runtime))
    #          stem          first block's two                     shortcut  second block's two
    assert {("n0", "n1"), ("n3", "n4"), ("n5", "n6", "n7"), ("n8",), ("n9", "n10"), ("n11", "n12", "n13")} <= found


def test_padding_belongs_to_what_reads_it(runtime: str) -> None:
    found = groups(kernels_of(networks.padded().serialised(), runtime))
    assert {("n0", "n1", "n2"), ("n3", "n4", "n5")} <= found


def test_a_normalisation_joins_the_convolution_before_it_and_no_other(runtime: str) -> None:
    found = groups(kernels_of(networks.dense().serialised(), runtime))
    assert {("n1", "n2"), ("n3",), ("n5", "n6"), ("n9", "n10", "n11")} <= found


def test_a_product_and_its_bias_run_together(runtime: str) -> None:
    net = networks.tokens()
    by_name = {node.name: node for node in net.nodes}
    for kernel in kernels_of(net.serialised(), runtime):
        if kernel["op"] in ("Gemm", "FullyConnected"):
            (product,) = [name for name in kernel["covers"] if by_name[name].op_type == "MatMul"]
            rest = [name for name in kernel["covers"] if name != product]
            assert all(by_name[name].op_type in ("Add", "Reshape", "Gelu", "Mul") for name in rest), kernel


def test_a_change_of_layout_belongs_to_the_value_that_it_converts(runtime: str) -> None:
    for kernel in kernels_of(networks.squeezing().serialised(), runtime):
        if kernel["op"].startswith("Reorder"):
            assert kernel["covers"] in [["n0"], ["n5"], ["n6"], ["n10"], ["n11"], ["n14"]]


def test_nodes_without_a_name_are_called_after_their_value(runtime: str) -> None:
    model = networks.residual().model()
    for node in model.graph.node:
        node.ClearField("name")
    covered = {name for kernel in kernels_of(model.SerializeToString(), runtime) for name in kernel["covers"]}
    assert covered == {f"v{number}" for number in range(len(model.graph.node))}


def test_a_name_that_looks_like_the_runtimes_own(runtime: str) -> None:
    model = networks.residual().model()
    for number, node in enumerate(model.graph.node):
        node.name = ["Conv_3", "a_nchwc", "ReorderOutput", "a/b", "n,m"[:1]][number % 5] + str(number)
    names = {node.name for node in model.graph.node}
    kernels = kernels_of(model.SerializeToString(), runtime)
    assert {name for kernel in kernels for name in kernel["covers"]} == names


def test_constants_computed_beforehand_run_in_no_kernel(runtime: str) -> None:
    net = networks.Network(1, 3, 16, 16)
    scale = net.add("Exp", net.constant(32, 1, 1))
    net.add("Mul", net.add("Relu", net.conv("x", 3)), scale)
    covered = {name for kernel in kernels_of(net.serialised(), runtime) for name in kernel["covers"]}
    assert covered == {"n1", "n2", "n3"}


def test_kernels_are_told_again(runtime: str) -> None:
    engine = device_runner.open_engine(networks.padded().serialised(), runtime=runtime, instrumented=True)
    engine.bind(device_runner.example_feeds(engine))()
    assert engine.kernels() == engine.kernels()
    engine.close()


def test_an_engine_that_was_never_called_has_nothing_to_tell(runtime: str) -> None:
    engine = device_runner.open_engine(networks.padded().serialised(), runtime=runtime, instrumented=True)
    assert all(kernel["runs_ms"] == [] for kernel in engine.kernels())
    engine.close()


def test_from_a_file(runtime: str, tmp_path: Any) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(networks.padded().model(), path)
    assert groups(kernels_of(str(path), runtime)) == groups(kernels_of(path.read_bytes(), runtime))


def test_a_profile_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    kernels_of(networks.padded().serialised(), "onnxruntime")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(device_runner.BadInput):
        device_runner.open_engine(b"junk", instrumented=True)
    assert list(tmp_path.iterdir()) == []


def test_the_sum_of_kernels_is_below_the_time_of_the_call() -> None:
    """Counted in whole microseconds, rounded down; a kernel reported twice would show."""
    import time

    engine = device_runner.open_engine(networks.residual().serialised(), instrumented=True)
    call, took = engine.bind(device_runner.example_feeds(engine)), []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        took.append((time.perf_counter() - begin) * 1e3)
    for run, whole in enumerate(took):
        assert sum(kernel["runs_ms"][run] for kernel in engine.kernels()) <= whole
    engine.close()


def test_graph_of_a_model_with_constants_among_its_inputs() -> None:
    model = networks.padded().model()
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in model.graph.initializer
    )
    model.graph.node.insert(0, onnx.helper.make_node("Exp", ["c1"], ["spare"], name="spare"))
    graph = onnx_graph.Graph(model.SerializeToString())
    assert "spare" not in graph.live
    assert graph.live == {f"n{number}" for number in range(9)}
