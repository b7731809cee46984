"""Models in folders that transformers saved; ``make test`` installs it apart, and where it is not, this is skipped."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hwprune.deploy import compare, export_onnx
from hwprune.device_runner import open_engine
from hwprune.errors import ModelError
from hwprune.network import cut, load_model, trace, verify_cut
from hwprune.network.inputs import example_for

sys.path.append(str(Path(sys.prefix) / "zoo"))
transformers = pytest.importorskip("transformers")

TEXT = "input_ids=1,16:int64<100;attention_mask=1,16:int64"
SMALL = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**SMALL, "intermediate_size": 128, "max_position_embeddings": 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, num_labels=3))
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_bert_from_its_folder_to_an_engine(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(f"transformers:{folder}").eval()
    saved = transformers.BertForSequenceClassification.from_pretrained(folder)
    assert all(torch.equal(one, saved.state_dict()[name]) for name, one in model.state_dict().items())
    example = example_for(model, TEXT, batch=1)
    network = trace(model, example)
    assert network.output_shape == (1, 3)
    widths = {group.name: group.channels for group in network.cuttable}
    assert widths["bert.embeddings.word_embeddings"] == 64
    assert widths["bert.encoder.layer.1.attention.self.query"] == 4
    assert widths["bert.encoder.layer.1.intermediate.dense"] == 128
    kept = {group.name: list(range(group.channels // 2)) for group in network.cuttable}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, example)
    info = export_onnx(smaller, example, tmp_path / "m.onnx")
    assert info.inputs == ("input_ids", "attention_mask")
    assert "Evaluation failed" not in caplog.text
    compare(smaller, open_engine(str(info.path)), [example_for(model, TEXT, batch=1, seed=7)]).check()


def test_no_cache_is_among_the_outputs(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=64, n_layer=1, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_model(f"transformers:{tmp_path}").eval()
    assert trace(model, example_for(model, TEXT, batch=1)).output_shape == (1, 16, 100)


def test_without_weights_they_are_random_and_follow_the_seed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(load_model(f"transformers:{folder}").classifier.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_without_a_known_class_the_plain_model(folder: Path) -> None:
    for architectures in (None, ["NoSuchModel"], ["logging"], ["PreTrainedTokenizer"]):
        edit(folder, architectures=architectures)
        assert type(load_model(f"transformers:{folder}")).__name__ == "BertModel"


class Evil:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "proof")))
    load_model(f"transformers:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"in pytorch_model\.bin, which may run code") as caught:
        load_model(f"transformers:{folder}")
    assert "safetensors" in caught.value.hint
    assert not (tmp_path / "proof").exists()


def test_code_beside_the_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    edit(folder, model_type="own", auto_map={"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"})
    with pytest.raises(ModelError, match="transformers cannot make the model") as caught:
        load_model(f"transformers:{folder}")
    assert "is not run" in caught.value.hint
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model_type": 3}', b'{"architectures": ["BertModel"]}'])
def test_a_configuration_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(f"transformers:{folder}")
    assert caught.value.hint


def test_a_name_is_not_looked_up_anywhere(tmp_path: Path) -> None:
    for name in ("bert-base-uncased", str(tmp_path), ""):
        with pytest.raises(ModelError, match=r"is no folder with a config\.json"):
            load_model(f"transformers:{name}")


def test_weights_of_another_class_are_told(folder: Path) -> None:
    edit(folder, architectures=["BertForTokenClassification"], num_labels=3)
    weights = folder / "model.safetensors"
    import safetensors.torch

    tensors = safetensors.torch.load_file(weights)
    del tensors["classifier.weight"]
    safetensors.torch.save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 .* classifier\.weight"):
        load_model(f"transformers:{folder}")


def test_damaged_weights_are_told(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="transformers cannot make the model"):
        load_model(f"transformers:{folder}")
