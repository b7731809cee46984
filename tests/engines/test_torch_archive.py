"""Archives of torch.export: plain ones are opened, any that could run code are not."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwprune.device_runner import BadInput, example_feeds, open_engine


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.conv(x))) * scale
        first, _ = x.split(4, 1)
        return self.head(x.mean((2, 3))), first


EXAMPLE = (torch.zeros(2, 3, 9, 9), torch.ones(1))


def saved(module: nn.Module, example: tuple[Any, ...], **settings: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), example, **settings), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def plain() -> bytes:
    torch.manual_seed(0)
    return saved(Net(), EXAMPLE)


def changed(content: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with one file of it changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for one in old.infolist():
            inside = old.read(one)
            new.writestr(one.filename, change(inside) if one.filename.endswith(name) else inside)
    return buffer.getvalue()


def in_json(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return apply


def test_a_program_with_several_inputs_and_outputs(plain: bytes) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    engine = open_engine(plain, runtime="torch")
    assert [(port["name"], port["shape"]) for port in engine.inputs] == [("x", [2, 3, 9, 9]), ("scale", [1])]
    assert [port["shape"] for port in engine.outputs] == [[2, 5], [2, 4, 7, 7]]
    feeds = example_feeds(engine)
    with torch.no_grad():
        wanted = net(*(torch.tensor(feeds[name]) for name in ("x", "scale")))
    for mine, theirs in zip(engine.run(feeds), wanted, strict=True):
        torch.testing.assert_close(torch.tensor(mine), theirs)


def test_its_operators_are_timed_one_by_one(plain: bytes) -> None:
    engine = open_engine(plain, runtime="torch", instrumented=True)
    call = engine.bind(example_feeds(engine))
    call()
    call()
    kernels = engine.kernels()
    assert [kernel["covers"] for kernel in kernels] == [
        [name] for name in ("conv2d", "batch_norm", "relu", "mul", "split", "mean", "linear")
    ]
    assert all(len(kernel["runs_ms"]) == 2 and min(kernel["runs_ms"]) > 0 for kernel in kernels)
    assert kernels[0]["op"] == "aten.conv2d.default"


def test_threads_are_set_when_it_runs(plain: bytes) -> None:
    before = torch.get_num_threads()
    try:
        engines = [open_engine(plain, runtime="torch", threads=threads) for threads in (1, 2)]
        calls = [engine.bind(example_feeds(engine)) for engine in engines]
        for threads, call in [(1, calls[0]), (2, calls[1]), (1, calls[0])]:
            call()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_inputs_of_another_shape(plain: bytes) -> None:
    engine = open_engine(plain, runtime="torch")
    feeds = example_feeds(engine)
    with pytest.raises(BadInput, match="input 'x' is float32"):
        engine.run({**feeds, "x": feeds["x"][:1]})


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.place,)


def test_pickled_sample_inputs(plain: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save((Bomb(tmp_path / "ran"),), buffer)
    with pytest.raises(BadInput, match="Weights only load failed"):
        open_engine(changed(plain, "sample_inputs/model.pt", lambda _: buffer.getvalue()), runtime="torch")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_weights(plain: bytes, tmp_path: Path, kind: str) -> None:
    def pickled(config: Any) -> None:
        weight = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
        config["config"]["conv.weight"] = weight

    bad = changed(plain, f"model_{kind}_config.json", in_json(pickled))
    bad = changed(bad, "weights/weight_0", lambda _: pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(BadInput, match="pickled object"):
        open_engine(bad, runtime="torch")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["opaque_obj_0", "custom_obj_0"])
def test_pickled_objects(plain: bytes, name: str) -> None:
    def add(config: Any) -> None:
        config["config"]["it"] = {"path_name": name, "is_param": False, "use_pickle": False, "tensor_meta": None}

    with pytest.raises(BadInput, match="pickled object"):
        open_engine(changed(plain, "model_constants_config.json", in_json(add)), runtime="torch")


@pytest.mark.parametrize("name", ["weights/model.pt", "constants/model.pt", "aotinductor/model/x.so", "constants/y"])
def test_files_that_are_no_weights(plain: bytes, name: str) -> None:
    buffer = io.BytesIO(plain)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(f"archive/data/{name}", b"")
    with pytest.raises(BadInput, match="neither weights nor constants"):
        open_engine(buffer.getvalue(), runtime="torch")


@pytest.mark.parametrize(
    "target", ["torch.os.system", "torch.hub.load", "math.sqrt", "#mine.op", "_operator.attrgetter"]
)
def test_calls_of_something_else_than_an_operator(plain: bytes, target: str) -> None:
    def call(document: Any) -> None:
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(BadInput, match="no ATen operator"):
        open_engine(changed(plain, "models/model.json", in_json(call)), runtime="torch")


def test_guards_are_code(plain: bytes) -> None:
    guarded = in_json(lambda document: document.update(guards_code=["print('ran')"]))
    with pytest.raises(BadInput, match="could run code"):
        open_engine(changed(plain, "models/model.json", guarded), runtime="torch")


def test_dynamic_shapes_are_expressions() -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    content = saved(Net(), EXAMPLE, dynamic_shapes=({0: batch}, None))
    with pytest.raises(BadInput, match="dynamic shapes"):
        open_engine(content, runtime="torch")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x05\x06" + bytes(18)])
def test_no_archive(content: bytes) -> None:
    with pytest.raises(BadInput):
        open_engine(content, runtime="torch")


def test_an_ordinary_checkpoint_is_none() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    with pytest.raises(BadInput, match=r"no archive of torch\.export"):
        open_engine(buffer.getvalue(), runtime="torch")
