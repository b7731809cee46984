"""Inputs as users write them, and models that take several of them by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hwprune.deploy import compare, export_onnx, run_engine
from hwprune.device_runner import open_engine
from hwprune.errors import InputError, ModelError, SurgeryError
from hwprune.inputs import Input, parse_inputs, read_inputs, spelled
from hwprune.network import cut, trace, verify_cut
from hwprune.network.forward import random_like
from hwprune.network.inputs import described, example_for

TEXT = "input_ids=1,12:int64<50;attention_mask=1,12:int64"


class Classifier(nn.Module):
    """Tokens and a mask in; a dictionary with None in it out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: Any = None) -> dict[str, Any]:
        x = self.tokens(input_ids)
        x = self.norm(x + self.down(torch.relu(self.up(x))))
        mask = attention_mask[..., None].to(x.dtype)
        return {"loss": labels, "logits": self.head((x * mask).sum(1) / (mask.sum(1) + 1e-3))}


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return Classifier().eval()


class TestText:
    @pytest.mark.parametrize(
        ("text", "inputs"),
        [
            ("1,3,224,224", [Input(shape=(1, 3, 224, 224))]),
            ("1x3x8x8", [Input(shape=(1, 3, 8, 8))]),
            ("1,3,8,8:float16", [Input(shape=(1, 3, 8, 8), dtype="float16")]),
            ("1,16:int64<30522", [Input(shape=(1, 16), dtype="int64", below=30522)]),
            ("1,4;1,5:bool", [Input(shape=(1, 4)), Input(shape=(1, 5), dtype="bool")]),
            (
                "x=1,4,8,8; t = 1 :int64<1000",
                [Input(name="x", shape=(1, 4, 8, 8)), Input(name="t", shape=(1,), dtype="int64", below=1000)],
            ),
        ],
    )
    def test_is_read_and_written_again(self, text: str, inputs: list[Input]) -> None:
        assert list(parse_inputs(text)) == inputs
        assert list(read_inputs(spelled(inputs))) == inputs

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is not a shape"),
            ("1", "is not a shape"),
            ("a,b", "is not a shape"),
            ("1,,2", "is not a shape"),
            ("1,3,0", "size below 1"),
            ("1,-3", "size below 1"),
            ("x=", "is not a shape"),
            ("=1,2", "input name ''"),
            ("a b=1,2", "input name 'a b'"),
            ("x=1,2;x=1,2", "one name twice"),
            ("x=1,2;1,2", "names some inputs only"),
            ("1,2:int63", "type 'int63' is unknown"),
            ("1,2:", "type '' is unknown"),
            ("1,2:complex64", "is unknown"),
            ("1,2:int64<0", "leaves no number"),
            ("1,2:uint8<257", "more than uint8 holds"),
            ("1,2:int8<129", "more than int8 holds"),
            ("1,2:int64<9223372036854775808", "more than int64 holds"),
            ("1,2:int64<many", "is not a shape"),
            ("1,2:float32<3", "is not of whole numbers"),
            ("1,2<3", "is not of whole numbers"),
            ("x=y=1,2", "is not a shape"),
            ("1,2;;1,2", "is not a shape"),
        ],
    )
    def test_nonsense_is_refused(self, text: str, says: str) -> None:
        with pytest.raises(InputError, match=says) as caught:
            parse_inputs(text)
        assert caught.value.hint


class TestExamples:
    def test_made_up_ones_are_of_the_batch_the_type_and_the_bound(self, classifier: nn.Module) -> None:
        example = example_for(classifier, "ids=1,500:int32<7;mask=1,500:bool;x=1,4:float64;y=1,5", batch=3, seed=1)
        assert isinstance(example, dict)
        assert [tuple(tensor.shape) for tensor in example.values()] == [(3, 500), (3, 500), (3, 4), (3, 5)]
        assert [tensor.dtype for tensor in example.values()] == [torch.int32, torch.bool, torch.float64, torch.float32]
        assert example["ids"].unique().tolist() == list(range(7))
        assert example["mask"].unique().tolist() == [False, True]
        again = example_for(classifier, "ids=1,500:int32<7;mask=1,500:bool;x=1,4:float64;y=1,5", batch=3, seed=1)
        assert all(torch.equal(example[name], again[name]) for name in example)

    def test_without_names_they_go_by_position(self, classifier: nn.Module) -> None:
        assert isinstance(example_for(classifier, (1, 3, 8, 8), batch=2), torch.Tensor)
        assert isinstance(example_for(classifier, "1,4;1,5", batch=2), tuple)

    def test_floating_point_follows_the_model_unless_said(self) -> None:
        half = nn.Linear(4, 2).to(torch.bfloat16)
        assert example_for(half, (1, 4), batch=1).dtype == torch.bfloat16
        assert example_for(half, "1,4:float32", batch=1).dtype == torch.float32

    def test_one_s_own_is_taken_and_repeated(self, classifier: nn.Module) -> None:
        own = {"a": torch.rand(1, 3), "b": torch.rand(4, 2, 2)}
        example = example_for(classifier, own, batch=4)
        assert torch.equal(example["a"], own["a"].repeat(4, 1))
        assert example["b"] is own["b"]
        assert [(one.name, one.shape) for one in described(own)] == [("a", (1, 3)), ("b", (4, 2, 2))]

    @pytest.mark.parametrize("wrong", [{}, (), {"x": 3}, (torch.zeros(1, 2), None), {3: torch.zeros(1, 2)}])
    def test_what_is_no_example_is_refused(self, classifier: nn.Module, wrong: Any) -> None:
        with pytest.raises(InputError) as caught:
            trace(classifier, wrong)
        assert "example input" in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize("size", [10**9, 10**20])
    def test_what_does_not_fit_into_memory_is_refused(self, classifier: nn.Module, size: int) -> None:
        with pytest.raises(InputError, match="no room for an input"):
            example_for(classifier, (1, size, size), batch=1)

    def test_whole_numbers_up_to_the_largest(self, classifier: nn.Module) -> None:
        for text in ("1,9:uint8<256", "1,9:int8<128", "1,9:int64<9223372036854775807"):
            example_for(classifier, text, batch=1)

    def test_another_one_has_the_same_form(self) -> None:
        example = {"x": torch.rand(2, 3), "ids": torch.arange(4).view(2, 2)}
        other = random_like(example)
        assert list(other) == ["x", "ids"]
        assert torch.equal(other["ids"], example["ids"])
        assert not torch.equal(other["x"], example["x"])


class TestByName:
    def test_traced_cut_exported_and_run(self, classifier: nn.Module, tmp_path: Any) -> None:
        example = example_for(classifier, TEXT, batch=1)
        network = trace(classifier, example)
        assert {group.name for group in network.cuttable} == {"tokens", "up"}
        assert (network.input_shape, network.output_shape) == ((1, 12), (1, 3))
        kept = {group.name: list(range(1, group.channels // 2)) for group in network.cuttable}
        smaller = cut(classifier, network.cuts(kept))
        assert verify_cut(classifier, smaller, network, kept, example).max_relative_error < 1e-5

        info = export_onnx(smaller, example, tmp_path / "m.onnx")
        assert (info.inputs, info.outputs) == (("input_ids", "attention_mask"), ("output",))
        engine = open_engine(str(info.path))
        assert [port["dtype"] for port in engine.inputs] == ["int64", "int64"]
        batches = [example_for(smaller, TEXT, batch=5, seed=seed) for seed in range(3)]
        parity = compare(smaller, engine, batches)
        parity.check("fp32")
        assert parity.samples == 15

    def test_names_decide_and_not_their_order(self, classifier: nn.Module, tmp_path: Any) -> None:
        example = example_for(classifier, TEXT, batch=2)
        engine = open_engine(str(export_onnx(classifier, example, tmp_path / "m.onnx").path))
        turned = dict(reversed(list(example.items())))
        assert torch.equal(run_engine(engine, turned)[0], run_engine(engine, example)[0])
        turned = export_onnx(classifier, turned, tmp_path / "turned.onnx")
        assert turned.inputs == ("attention_mask", "input_ids")
        assert torch.equal(run_engine(open_engine(str(turned.path)), example)[0], run_engine(engine, example)[0])

    def test_by_position_is_the_same_network(self, classifier: nn.Module) -> None:
        named = example_for(classifier, TEXT, batch=1)
        assert isinstance(named, dict)
        by_position, by_name = trace(classifier, tuple(named.values())), trace(classifier, named)
        assert by_position.dense_widths == by_name.dense_widths
        assert by_position.layers == by_name.layers

    def test_a_name_that_forward_lacks_is_told(self, classifier: nn.Module) -> None:
        example = example_for(classifier, "input_ids=1,12:int64<50;mask=1,12:int64", batch=1)
        with pytest.raises(ModelError, match=r"input_ids \(1, 12\) int64, mask .*unexpected keyword argument 'mask'"):
            trace(classifier, example)

    def test_a_wrong_cut_is_found(self, classifier: nn.Module) -> None:
        example = example_for(classifier, TEXT, batch=1)
        network = trace(classifier, example)
        kept = {"up": list(range(32))}
        other = cut(classifier, network.cuts({"up": list(range(1, 33))}))
        with pytest.raises(SurgeryError):
            verify_cut(classifier, other, network, kept, example)
