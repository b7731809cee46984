"""The whole road for a network of several inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune import device_runner
from hwprune.compression import CompressConfig, Progress, compress, read_config
from hwprune.compression.job import prepare
from hwprune.device_bundle import verify_bundle
from hwprune.errors import DataError, InputError
from hwprune.verbs import load

from . import fakes, text

FILE = Path(text.__file__)
POSITIONAL = "1,12:int64<50;1,12:int64"


def config(output: Path, **changes: Any) -> CompressConfig:
    settings = {"model": f"{FILE}:build", "data": f"{FILE}:data", "input_shape": text.INPUTS, "macs": "0.5x"}
    return fakes.config(output, **{**settings, "optimizer": "adamw", **changes})


@pytest.mark.parametrize(("data", "inputs"), [("data", text.INPUTS), ("tuples", POSITIONAL)])
def test_to_a_budget_of_operations(data: str, inputs: str, tmp_path: Path, device: Any) -> None:
    with device():
        run = compress(config(tmp_path / "run", data=f"{FILE}:{data}", input_shape=inputs))
    assert run.budget_met is True
    assert run.result["accuracy"] > 0.8
    assert run.result["accuracy_of"] == "exported engine"
    assert run.result["parity"]["samples"] == 48
    assert verify_bundle(run.bundle, latency=False)["ok"]

    engine = device_runner.open_engine(str(run.path / "model.onnx"))
    names = ["input_ids", "attention_mask"] if data == "data" else ["input_0", "input_1"]
    assert [port["name"] for port in engine.inputs] == names
    smaller = load(run.path, text.build()).eval()
    (sample, _) = text.Sentences(5, 7, named=False)[3]
    (found,) = engine.run({name: tensor[None].numpy() for name, tensor in zip(names, sample, strict=True)})
    np.testing.assert_allclose(found, smaller(*(one[None] for one in sample))["logits"].detach(), rtol=1e-4, atol=1e-5)
    golden = np.load(run.bundle / "golden.npz")
    assert golden["input_0"].dtype == np.int64


def test_to_a_budget_of_latency_against_a_table_of_its_own(tmp_path: Path, device: Any) -> None:
    """The table is measured from whole networks, with the made-up clock."""
    with device():
        run = compress(config(tmp_path / "run", macs=None, latency="0.7x", table_method="in-context", distill=0.0))
    assert run.budget_met is True
    assert (run.path / "table.json").exists()


def test_the_command_line_resumes_what_it_began(tmp_path: Path, hwprune: Any, device: Any) -> None:
    shapes = " ".join(f"--input-shape '{part}'" for part in text.INPUTS.split(";"))
    line = f"compress --model {FILE}:build --data {FILE}:data {shapes} --macs 0.5x --output {tmp_path / 'run'} "
    line += "--method joint-oneshot --saliency-batches 1 --epochs 0 --channel-step 4 --accelerator cpu"
    with device():
        assert hwprune(line).status == 0
        assert hwprune(f"{line} --resume").status == 0
        answer = hwprune(f"compress --resume --output {tmp_path / 'run'} --input-shape '{POSITIONAL}'")
    assert answer.status == 2
    assert "--input-shape input_ids=1,12:int64<50;attention_mask=1,12:int64, not" in answer.err


def test_a_file_of_settings_lists_them(tmp_path: Path, hwprune: Any) -> None:
    shapes = json.dumps(text.INPUTS.split(";"))
    (tmp_path / "some.toml").write_text(f'model = "m:f"\ndata = "d:f"\ninput-shape = {shapes}\nmacs = "9x"\n')
    answer = hwprune(f"compress --config {tmp_path / 'some.toml'} --output {tmp_path / 'run'} --criterion none")
    assert "criterion 'none' is unknown" in answer.err  # what is checked after all types


def test_one_spelling_of_the_same_inputs(tmp_path: Path) -> None:
    one = config(tmp_path, input_shape="input_ids= 1,12 :int64<50 ; attention_mask=1x12:int64<2;")
    assert one.input_shape == text.INPUTS
    assert read_config(json.loads(json.dumps(one.resolved()))) == one
    assert config(tmp_path, input_shape="1,3,8,8").input_shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"input_shape": "input_ids=1,12:int64;mask=1,12:int64"},
            "inputs input_ids, attention_mask, the network takes",
        ),
        ({"input_shape": POSITIONAL}, "the network takes 2 inputs by position"),
        ({"input_shape": (1, 12)}, "the network takes 1 input by position"),
        (
            {"input_shape": text.INPUTS.replace("=1,12", "=1,13")},
            r"input_ids: shape \(12,\), the .* has \(13,\)",
        ),
        ({"input_shape": text.INPUTS.replace("int64", "int32")}, "input_ids: type int64, the network takes int32"),
        ({"input_shape": "input_ids=1,12;attention_mask=1,12"}, "type int64, the network takes floating point"),
        ({"data": "digits"}, "digits gives one input of float32"),
        ({"data": f"{FILE}:tuples"}, "2 inputs by position, the network takes inputs input_ids, attention_mask"),
        ({"input_shape": text.INPUTS.replace("=1,12", "=4,12")}, "batch 4, target local-onnxruntime runs batch 1"),
    ],
)
def test_data_and_inputs_that_disagree_are_told_before_anything_is_written(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        prepare(config(tmp_path / "run", **changes), Progress(quiet=True))
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_sample_without_label_is_told(tmp_path: Path, device: Any) -> None:
    class Unlabelled(text.Sentences):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0]

    from hwprune.compression import InMemory
    from hwprune.training import Data

    given = InMemory(data=Data(train=Unlabelled(8, 0), validation=Unlabelled(8, 0)))
    with device(), pytest.raises(DataError, match=r"batches of \(inputs, labels\)"):
        compress(config(tmp_path / "run"), given=given)
    assert not (tmp_path / "run").exists()
