"""Packed engines by round trips, by what runs, and by weights worked out apart."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from hwprune.deploy import Storage, export_onnx, pack, packed_size, unpack
from hwprune.errors import BundleError, InputError, ModelError

FORMS = [*itertools.product(("dense", "bitmask", "gap8"), ("fp32", "fp16", "int8"), ("none", "zlib", "xz"))]
STORAGES = ["-".join(parts) for parts in [*FORMS, *(("onnx", precision) for precision in ("fp32", "fp16", "int8"))]]


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.gru = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.tokens(x))[0][:, -1])


class Image(nn.Module):
    """Convolutions of all kinds, in the end a matrix product on four dimensions; one filter is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.grouped = nn.Conv2d(16, 24, 3, groups=2)
        self.up = nn.ConvTranspose2d(24, 8, 2)
        self.head = nn.Linear(8, 10)
        nn.init.zeros_(self.stem[0].weight[3].detach())
        nn.init.constant_(self.stem[1].weight[:8].detach(), -1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.grouped(self.stem(x)).relu()).permute(0, 2, 3, 1))


class Tied(nn.Module):
    """One matrix looked up in, and multiplied with: a language model's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(40, 12)
        self.places = nn.Parameter(torch.randn(1, 7, 12))
        self.mix = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.tokens(x) + self.places) @ self.tokens.weight.T


IDS = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "sequence": (Sequence, IDS),
    "image": (Image, IMAGES),
    "image in half": (lambda: Image().half(), IMAGES.half()),
    "tied": (Tied, IDS),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine of ten weights are zero."""
    make, example = MODELS[request.param]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand(parameter.shape) < 0.9] = 0
    return export_onnx(model, example, tmp_path_factory.mktemp("packing") / f"{request.param}.onnx").path


def outputs(model: bytes, seed: int = 0) -> list[Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds, rng = {}, np.random.default_rng(seed)
    for port in session.get_inputs():
        dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}.get(port.type, np.int64)
        feeds[port.name] = (rng.standard_normal(port.shape) * 20 % 40).astype(dtype)
    return list(session.run(None, feeds))


def weights(model: bytes) -> dict[str, Any]:
    graph = onnx.load_model_from_string(model).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def blanked(model: bytes) -> bytes:
    """With zeros for the values of matrices."""
    proto = onnx.load_model_from_string(model)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.raw_data = bytes(len(tensor.raw_data))
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("form", STORAGES)
def test_what_is_unpacked_runs_with_the_same_rounded_weights_in_every_encoding(exported: Path, form: str) -> None:
    storage, plain = Storage.parse(form), exported.read_bytes()
    packed = pack(exported, storage)
    unpacked = unpack(packed)
    assert packed_size(exported, storage) == len(packed)
    reference = unpack(pack(exported, Storage(encoding="dense", precision=storage.precision)))
    for found, wanted in zip(outputs(unpacked), outputs(reference), strict=True):
        assert np.array_equal(found, wanted)
    if storage.encoding == "onnx":
        assert unpacked == packed
        return
    assert unpacked == reference
    if storage.precision == "fp32":
        assert unpacked == plain
    assert blanked(unpacked) == blanked(plain)


def test_half_a_step_of_rounding_at_most(exported: Path) -> None:
    before = weights(exported.read_bytes())
    for precision in ("fp16", "int8"):
        after = weights(unpack(pack(exported, Storage(encoding="gap8", precision=precision))))
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert all(before[name].ndim > 1 for name in changed)
        assert changed or before[next(iter(before))].dtype == np.float16
        for name in changed:
            error = np.abs(after[name].astype(float) - before[name])
            assert not after[name][before[name] == 0].any()
            if precision == "fp16":
                assert (error <= np.abs(before[name]) * 2**-11).all()
            else:  # some dimension has a scale per index
                steps = [
                    np.abs(before[name]).max(tuple({*range(error.ndim)} - {dim}), keepdims=True) / 127
                    for dim in range(error.ndim)
                ]
                slack = 1e-3 if before[name].dtype == np.float16 else 1e-6
                assert any((error <= step * 0.5 + slack * np.abs(before[name])).all() for step in steps), name


def test_channels_have_scales_of_their_own(tmp_path: Path) -> None:
    """Channels of very different size lose the same part, whatever operator and layout they are in."""
    sizes = torch.tensor([1e-6, 1.0, 1e6, 1e-3, 10, 1e4])
    torch.manual_seed(0)
    convolution, transposed, linear = nn.Conv2d(8, 6, 3), nn.ConvTranspose2d(8, 6, 3), nn.Linear(8, 6)
    cases: list[tuple[nn.Module, Tensor, Tensor]] = [
        (convolution, torch.randn(1, 8, 5, 5), sizes.reshape(-1, 1, 1, 1)),
        (transposed, torch.randn(1, 8, 5, 5), sizes.reshape(1, -1, 1, 1)),
        (linear, torch.randn(3, 8), sizes.reshape(-1, 1)),  # Gemm
        (linear, torch.randn(1, 3, 8), torch.ones(1)),  # MatMul, transposed
    ]
    for layer, example, factor in cases:
        with torch.no_grad():
            layer.weight *= factor  # type: ignore[operator]
        path = export_onnx(layer.eval(), example, tmp_path / "layer.onnx").path
        (before,) = (v for v in weights(path.read_bytes()).values() if v.ndim > 1)
        (after,) = (
            v for v in weights(unpack(pack(path, Storage.parse("dense-int8")))).values() if v.shape == before.shape
        )
        channels = [dim for dim, size in enumerate(before.shape) if size == 6]
        rest = tuple({*range(before.ndim)} - {*channels})
        error = np.abs(after - before).max(rest) / np.abs(before).max(rest)
        assert 0 < error.max() < 0.004
        assert not np.array_equal(before, after)


def test_what_is_no_weight_is_not_rounded(exported: Path) -> None:
    """Biases, position codes, whatever is only added."""
    before, after = weights(exported.read_bytes()), weights(unpack(pack(exported, Storage.parse("gap8-int8"))))
    graph = onnx.load(exported).graph
    added = {name for node in graph.node if node.op_type in ("Add", "Mul") for name in node.input} & set(before)
    biases = {node.input[3] for node in graph.node if node.op_type == "GRU"}
    assert added or biases or exported.stem.startswith("image")
    for name in added | biases:
        assert np.array_equal(before[name], after[name])


def test_fewer_bytes_in_the_order_one_expects(exported: Path) -> None:
    size = functools.cache(lambda form: packed_size(exported, Storage.parse(form)))
    plain = exported.stat().st_size
    assert size("dense") < plain + 100
    assert size("gap8") < 0.75 * size("dense")
    assert size("bitmask") < 0.75 * size("dense")
    assert size("onnx") < size("dense")
    assert size("gap8-fp16") <= size("gap8")
    assert size("dense-int8") < size("dense")
    for encoding in ("dense", "gap8"):
        assert size(f"{encoding}-xz") < size(f"{encoding}-zlib") + 60 < size(encoding)


def sparse_matrix(*shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32)
    values[rng.random(shape) < 0.9] = 0
    return values


def save(tmp_path: Path, nodes: list[Any], initializers: list[Any], *, ir: int = 9, more: Any = (), **how: Any) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size]) for name, size in (("x", 16), ("y", 64)))
    graph = helper.make_graph(nodes, "g", [x, *more], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=ir)
    onnx.save(model, tmp_path / "made.onnx", **how)
    return tmp_path / "made.onnx"


MATRIX = sparse_matrix(16, 64)
WEIGHT = numpy_helper.from_array(MATRIX, "w")
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])
REPLACEABLE = helper.make_tensor_value_info("w", TensorProto.FLOAT, MATRIX.shape)


def external(tmp_path: Path) -> Path:
    how = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    return save(tmp_path, [PRODUCT], [WEIGHT], **how)


def shared(tmp_path: Path) -> Path:
    back = [helper.make_node("Transpose", ["w"], ["v"]), helper.make_node("MatMul", ["a", "v"], ["b"])]
    first, last = (helper.make_node("MatMul", [x, "w"], [y]) for x, y in (("x", "a"), ("b", "y")))
    return save(tmp_path, [first, *back, last], [WEIGHT])


def constant(tmp_path: Path) -> Path:
    return save(tmp_path, [helper.make_node("Constant", [], ["w"], value=WEIGHT), PRODUCT], [])


def empty(tmp_path: Path) -> Path:
    nothing = numpy_helper.from_array(np.zeros((2, 0), np.float32), "nothing")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Concat", ["a", "nothing"], ["y"], axis=1)]
    return save(tmp_path, nodes, [nothing, WEIGHT])


def not_raw(tmp_path: Path) -> Path:
    return save(tmp_path, [PRODUCT], [helper.make_tensor("w", TensorProto.FLOAT, MATRIX.shape, MATRIX.ravel())])


def transposed(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.ascontiguousarray(MATRIX.T), "v")
    return save(tmp_path, [helper.make_node("Transpose", ["v"], ["w"]), PRODUCT], [weight])


def reshaped(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(MATRIX.reshape(4, 4, 64), "v")
    shape = numpy_helper.from_array(np.array([16, 64]), "shape")
    return save(tmp_path, [helper.make_node("Reshape", ["v", "shape"], ["w"]), PRODUCT], [weight, shape])


def inside(tmp_path: Path) -> Path:
    """Read in a branch only."""
    value = helper.make_tensor_value_info("in", TensorProto.FLOAT, [2, 64])
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["in"])], "b", [], [value])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return save(tmp_path, [choice], [WEIGHT, numpy_helper.from_array(np.array(True), "c")])


def replaceable(tmp_path: Path) -> Path:
    return save(tmp_path, [PRODUCT], [WEIGHT], more=[REPLACEABLE])


def old(tmp_path: Path) -> Path:
    return save(tmp_path, [PRODUCT], [WEIGHT], more=[REPLACEABLE], ir=3)


ROUNDED = [external, shared, constant, empty, not_raw, transposed, reshaped]
EXACT = [inside, replaceable, old]


@pytest.mark.parametrize("form", ["gap8", "bitmask-xz", "gap8-int8", "dense-fp16", "onnx", "onnx-int8", "onnx-fp16"])
@pytest.mark.parametrize("make", [*ROUNDED, *EXACT])
def test_graphs_that_other_programs_write(tmp_path: Path, make: Callable[[Path], Path], form: str) -> None:
    path, storage = make(tmp_path), Storage.parse(form)
    packed = pack(path, storage)
    unpacked = unpack(packed)
    x = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32)
    found, wanted = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
        for model in (unpacked, path)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.05 * np.abs(wanted).max())
    assert np.array_equal(found, wanted) is (storage.precision == "fp32" or make in EXACT)
    if storage.packed and storage.precision == "fp32" and make is not external:
        assert unpacked == path.read_bytes()
    if form != "dense-fp16" and (storage.packed or make not in (replaceable, old)):
        assert len(packed) < 0.7 * MATRIX.nbytes
    onnx.checker.check_model(
        onnx.load_model_from_string(unpacked), full_check=storage.packed
    )  # its inference knows nothing sparse


@pytest.mark.parametrize("odd", [-np.inf, np.inf, np.nan])
def test_masks_with_what_has_no_rounding_stay_exact(tmp_path: Path, odd: float) -> None:
    mask = np.zeros((16, 64), np.float32)
    mask[3, 5], mask[0, 0] = odd, 1.0001
    path = save(tmp_path, [PRODUCT], [numpy_helper.from_array(mask, "w")])
    for form in ("gap8-int8", "gap8-fp16", "dense-int8-xz"):
        assert unpack(pack(path, Storage.parse(form))) == path.read_bytes()


def test_weights_beyond_fp16_stay_exact_and_tiny_ones_become_zero(tmp_path: Path) -> None:
    values = sparse_matrix(16, 64)
    values[0, 0] = 70000
    path = save(tmp_path, [PRODUCT], [numpy_helper.from_array(values, "w")])
    assert unpack(pack(path, Storage.parse("gap8-fp16"))) == path.read_bytes()
    tiny = np.full((16, 64), 1e-45, np.float32)
    path = save(tmp_path, [PRODUCT], [numpy_helper.from_array(tiny, "w")])
    for form in ("gap8-fp16", "gap8-int8"):
        assert not weights(unpack(pack(path, Storage.parse(form))))["w"].any()


def test_zeros_keep_their_sign(tmp_path: Path) -> None:
    values = sparse_matrix(16, 64)
    values[values == 0] *= np.where(np.arange(np.count_nonzero(values == 0)) % 30, 1, -1)
    assert np.signbit(values[values == 0]).any()
    path = save(tmp_path, [PRODUCT], [numpy_helper.from_array(values, "w")])
    for encoding in ("dense", "bitmask", "gap8"):
        assert unpack(pack(path, Storage(encoding=encoding))) == path.read_bytes()


def test_exported_zeros_have_no_sign(tmp_path: Path) -> None:
    """A batch norm with negative factors is folded into sparse filters."""
    layer = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
    with torch.no_grad():
        layer[0].weight[:, 1:] = 0
        layer[1].weight.fill_(-2)
    path = export_onnx(layer, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx").path
    (filters,) = (values for values in weights(path.read_bytes()).values() if values.ndim == 4)
    assert not filters[:, 1:].any()
    assert not np.signbit(filters[:, 1:]).any()
    assert filters[:, 0].all()


@pytest.mark.parametrize("form", STORAGES)
def test_a_form_is_written_as_it_is_read(form: str) -> None:
    storage = Storage.parse(form) if not form.endswith("none") else Storage.parse(form.removesuffix("-none"))
    assert Storage.parse(str(storage)) == storage
    assert set(str(storage).split("-")) <= set(form.split("-"))


@pytest.mark.parametrize("form", ["", "gap", "int8", "gap8-", "gap8-xz-int8", "gap8-int4", "gap8-int8-xz-xz", "Gap8"])
def test_unknown_forms(form: str) -> None:
    with pytest.raises(InputError, match="is unknown"):
        Storage.parse(form)


def test_a_plain_file_is_not_compressed() -> None:
    with pytest.raises(InputError, match="onnx-int8-xz: a plain ONNX file is not compressed"):
        Storage.parse("onnx-int8-xz")


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.onnx"):
        pack(tmp_path / "none.onnx", Storage.parse("gap8"))
    for content in (b"", b"no model", bytes(100)):
        (tmp_path / "no.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="is no ONNX model"):
            pack(tmp_path / "no.onnx", Storage.parse("gap8"))
        with pytest.raises(BundleError, match="no packed engine"):
            unpack(content)


def test_weights_beside_the_file_are_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin|made\.onnx"):
        pack(path, Storage.parse("gap8"))
