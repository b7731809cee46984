"""What models return: tensors in dictionaries, tuples and dataclasses, beside None and numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hwprune.deploy import compare, export_onnx, predictor
from hwprune.deploy.formats import torch_archive
from hwprune.device_runner import open_engine
from hwprune.errors import ModelError, ParityError
from hwprune.network import cut, trace, verify_cut
from hwprune.training import ClassificationTask
from hwprune.training.task import logits_of

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None
    inner: Any = None


class Named(NamedTuple):
    first: Tensor
    second: Tensor | None


class Net(nn.Module):
    """A backbone, whose features and logits are returned in some form."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.out, self.head, self.form = nn.Conv2d(16, 4, 1), nn.Linear(16, 5), form

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return self.form(self.head(features.mean((2, 3))), self.out(features))


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], int]] = {
    "segmentation": (lambda logits, mask: OrderedDict(out=mask), 1),
    "segmentation with aux": (lambda logits, mask: OrderedDict(out=mask, aux=logits), 2),
    "None among them": (lambda logits, mask: (None, logits, None, {"mask": mask, "none": None}), 2),
    "a dataclass": (lambda logits, mask: Answer(logits=logits), 1),
    "a dataclass in one": (lambda logits, mask: Answer(logits, None, Answer(mask)), 2),
    "a named tuple": (lambda logits, mask: Named(logits, None), 1),
    "like a detector": (
        lambda logits, mask: [{"boxes": mask.flatten(2)[0], "labels": logits[0].argsort(), "scores": logits[0]}],
        3,
    ),
    "the same one twice": (lambda logits, mask: (logits, logits), 2),
    "zeros that are whole numbers": (lambda logits, mask: (logits, torch.zeros_like(logits, dtype=torch.int64)), 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_traced_cut_exported_and_compared(form: str, tmp_path: Path) -> None:
    make, count = FORMS[form]
    model = Net(make).eval()
    network = trace(model, IMAGE)
    kept = {"body.0": [0, 3, 4, 9, 11]}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, IMAGE)
    info = export_onnx(smaller, IMAGE, tmp_path / "m.onnx")
    assert len(info.outputs) == count
    compare(smaller, open_engine(str(info.path)), [IMAGE, IMAGE.flip(3)]).check()
    assert not smaller._forward_hooks


def test_numbers_and_words_can_be_traced_but_no_engine_returns_them(tmp_path: Path) -> None:
    model = Net(lambda logits, mask: {"steps": 3, "logits": logits, "name": "net"}).eval()
    assert trace(model, IMAGE).output_shape == (2, 5)
    with pytest.raises(ModelError, match="returns a int, str, which an engine cannot") as caught:
        export_onnx(model, IMAGE, tmp_path / "m.onnx")
    assert caught.value.hint


def test_an_archive_of_torch_returns_the_same(tmp_path: Path) -> None:
    model = Net(FORMS["a dataclass in one"][0]).eval()
    engine = open_engine(torch_archive(model, IMAGE), runtime="torch")
    compare(model, engine, [IMAGE]).check()


def test_zeros_of_floating_point_still_say_nothing(tmp_path: Path) -> None:
    model = Net(lambda logits, mask: (logits, mask * 0)).eval()
    engine = open_engine(str(export_onnx(model, IMAGE, tmp_path / "m.onnx").path))
    with pytest.raises(ParityError, match="zeros for every sample"):
        compare(model, engine, [IMAGE])


def test_what_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    for form in (lambda logits, mask: {logits}, lambda logits, mask: None, lambda logits, mask: object()):
        with pytest.raises(ModelError, match="the model's output contains") as caught:
            export_onnx(Net(form).eval(), IMAGE, tmp_path / "m.onnx")
        assert caught.value.hint


class TestLogits:
    @pytest.mark.parametrize("form", ["None among them", "a dataclass in one", "a named tuple"])
    def test_of_the_model_and_of_its_engine_are_the_same(self, form: str, tmp_path: Path) -> None:
        model = Net(FORMS[form][0]).eval()
        batches = [(IMAGE, torch.tensor([1, 3]))]
        engine = predictor(open_engine(str(export_onnx(model, IMAGE, tmp_path / "m.onnx").path)))
        assert torch.allclose(logits_of(engine(IMAGE)), logits_of(model(IMAGE)), atol=1e-4)
        task = ClassificationTask()
        assert task.evaluate(engine, batches) == task.evaluate(model, batches)
        assert task.loss(model, batches[0]).requires_grad

    def test_behind_another_tensor_they_are_refused(self) -> None:
        zeros = torch.zeros(2, 5)
        for output in ({"mask": zeros, "logits": zeros.clone()}, Late(zeros, zeros.clone())):
            with pytest.raises(ModelError, match="logits after another tensor"):
                logits_of(output)


@dataclass
class Late:
    features: Tensor
    logits: Tensor
