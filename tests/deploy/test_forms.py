import io
import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hwprune import device_runner
from hwprune.deploy import forms as forms_module
from hwprune.deploy import verify
from hwprune.deploy.accuracy import Gates
from hwprune.deploy.export import exported_bytes
from hwprune.deploy.formats import torch_archive
from hwprune.deploy.forms import Asked, Form, Source, choose, forms_of, parse_precisions
from hwprune.deploy.latency import FormsMeasurement, Latency
from hwprune.deploy.release import release
from hwprune.deploy.storage import Storage
from hwprune.errors import InputError, ModelError, ParityError
from hwprune.targets import Target, load_target, runtime_for

from .lowered import Loud, Outlier, labelled

TARGET = load_target("local-onnxruntime", batch=2)


def measured(**ratios):
    def measure(contents, target, **settings):
        measure.seen = list(contents)
        latency = {
            name: Latency(
                p50_ms=ratios[name], p90_ms=2.0, min_ms=0.1, iqr_ms=0.1, cpu_p50_ms=None, repeats=100, clean=99
            )
            for name in contents
        }
        others = [name for name in contents if name != next(iter(contents))]
        return FormsMeasurement(
            latency=latency, ratio={name: (ratios[name], ratios[name] - 0.02, ratios[name] + 0.02) for name in others}
        )

    return measure


@pytest.fixture
def clock(monkeypatch):
    def set_to(**ratios):
        measure = measured(fp32=1.0, **ratios)
        monkeypatch.setattr(forms_module, "measure_forms", measure)
        return measure

    return set_to


def form(precision, refused=None):
    return Form(target=replace(TARGET, precision=precision), content=b"x", refused=refused)


FORMS = [form("fp32"), form("fp16"), form("int8")]
ALL = ("fp32", "fp16", "int8")


@pytest.mark.parametrize(
    ("fp16", "int8", "refused", "asked", "chosen"),
    [
        (0.7, 0.5, None, ALL, "int8"),
        (0.7, 0.5, "accuracy", ALL, "fp16"),
        (0.99, 0.5, "accuracy", ALL, "fp32"),  # an interval that holds 1 is no gain
        (1.3, 1.8, None, ALL, "fp32"),
        (0.7, 0.5, None, ("fp16",), "fp16"),
        (0.7, 1.8, None, ("int8",), None),
        (0.7, 0.5, "accuracy", ("int8",), None),
        (1.2, 1.8, None, ("fp16", "int8"), None),
    ],
)
def test_the_fastest_that_passes_is_chosen(clock, fp16, int8, refused, asked, chosen):
    clock(fp16=fp16, int8=int8)
    choice = choose([*FORMS[:2], form("int8", refused)], asked, TARGET)
    assert (choice.form and choice.form.precision) == chosen
    assert choice.verdicts.keys() == set(ALL) - {chosen}
    if refused:
        assert choice.verdicts["int8"] == "accuracy"
    elif int8 > 1:
        assert "no faster than fp32: 1.8 of its latency" in choice.verdicts["int8"]


def test_one_precision_can_be_forced(clock):
    clock(fp16=1.2, int8=1.8)
    refused = [*FORMS[:2], form("int8", "accuracy")]
    assert choose(refused, ("int8",), TARGET, force=True).form == refused[2]
    assert choose(refused, ("fp16", "int8"), TARGET, force=True).form is None


def test_precisions_are_named():
    gpu = Target(name="gpu", runtime="onnxruntime-cuda")
    assert parse_precisions("int8, fp32,int8", TARGET) == ("int8", "fp32")
    assert parse_precisions("auto", TARGET) == ("fp32", "fp16", "int8")
    assert parse_precisions("auto", gpu) == ("fp32",)
    with pytest.raises(InputError, match="'fp8' is unknown"):
        parse_precisions("fp32,fp8", TARGET)
    with pytest.raises(InputError, match="no precision 'int8'"):
        parse_precisions("int8", gpu)


@pytest.fixture(scope="module")
def outlier():
    torch.manual_seed(3)
    model = Outlier().eval()
    return Source(model=model, example=torch.randn(2, 16), data=labelled(model, 16))


def test_a_bundle_of_the_fastest_holds_the_facts(outlier, clock, tmp_path):
    seen = clock(fp16=1.1, int8=0.5)
    asked = Asked(precision="auto", gates=Gates(max_degradation=0.03), samples=40, seed=4)
    bundle, document = release(outlier, TARGET, asked, tmp_path / "bundle")
    assert seen.seen == ["fp32", "fp16", "int8"]  # side by side
    assert (document["precision"], document["passed"]) == ("int8", True)
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert (
        manifest["engine"]["precision"] == manifest["target"]["precision"] == manifest["precision"]["chosen"] == "int8"
    )
    facts = {one["precision"]: one for one in manifest["precision"]["forms"]}
    assert facts["int8"]["calibration"] == {"samples": 40, "source": "training set", "seed": 4}
    assert {one["layer"] for one in facts["int8"]["kept_in_float"]} <= {"wide", "narrow"}
    assert all(one["error"] > 0.05 for one in facts["int8"]["kept_in_float"])
    assert facts["int8"]["kept_in_float"]
    assert facts["int8"]["not_delivered"] is None
    assert facts["fp16"]["not_delivered"].startswith("no faster than fp32")
    assert facts["fp32"]["not_delivered"] == "another precision is faster"
    assert manifest["accuracy"] == facts["int8"]["accuracy"]
    assert manifest["accuracy"]["lost"] <= 0.03
    assert manifest["accuracy"]["low"] < manifest["accuracy"]["lost"] < manifest["accuracy"]["high"]
    assert verify(bundle.path, latency=False)["ok"]


def test_calibration_never_sees_validation_samples(clock, tmp_path):
    clock(int8=0.5)
    torch.manual_seed(3)
    model = Outlier().eval()
    data = labelled(model, 16)
    data.train.seen.clear()
    data.validation.seen.clear()
    reads, content = [], forms_module.from_training

    def noting(exported, given, **settings):
        before = len(given.validation.seen)
        made = content(exported, given, **settings)
        reads.append(len(given.validation.seen) - before)
        return made

    forms_module.from_training, kept = noting, content
    try:
        forms = forms_of(
            Source(model=model, example=torch.randn(2, 16), data=data), TARGET, ("int8",), Asked(samples=20)
        )
    finally:
        forms_module.from_training = kept
    assert reads == [0]
    assert len(data.train.seen) == 20
    fed = {tuple(row) for row in data.train.tensors[0][data.train.seen].tolist()}
    batches = [batch["input"] for batch in forms[1].lowered.calibration.feeds]
    assert {tuple(row) for row in np.concatenate(batches).tolist()} == fed


def test_a_missed_gate_delivers_nothing_unless_it_is_forced(outlier, clock, tmp_path, monkeypatch):
    clock(int8=0.5)
    strict = Asked(precision="int8", gates=Gates(max_degradation=0.0))
    monkeypatch.setattr(
        forms_module,
        "lowered_to",
        lambda exported, target, calibration, judge, asked: rough(exported, target, calibration),
    )
    bundle, document = release(outlier, TARGET, strict, tmp_path / "bundle")
    assert bundle is None
    assert not (tmp_path / "bundle").exists()
    assert (document["passed"], document["precision"]) == (False, None)
    assert "accuracy falls by 0." in document["precisions"][1]["not_delivered"]
    bundle, document = release(outlier, TARGET, replace(strict, force=True), tmp_path / "bundle")
    assert bundle is not None
    assert bundle.manifest["accuracy"]["lost"] > 0
    assert (document["passed"], document["precision"]) == (False, "int8")


def rough(exported, target, calibration):
    """All of it in 8 bits, whatever that costs."""
    return forms_module.lower(exported, target, calibration)


def test_fp16_overflows_are_kept_out_without_data(clock, tmp_path):
    clock(fp16=0.5)
    torch.manual_seed(0)
    source = Source(model=Loud(1e6).eval(), example=torch.randn(2, 3, 8, 8))
    bundle, _ = release(source, TARGET, Asked(precision="fp16"), tmp_path / "bundle")
    (fact,) = (one for one in bundle.manifest["precision"]["forms"] if one["precision"] == "fp16")
    assert {one["layer"] for one in fact["kept_in_float"]} == {"loud", "soft"}
    assert fact["calibration"]["source"] == "random inputs"
    types = {one.name: one.data_type for one in onnx.load(bundle.path / "model.onnx").graph.initializer}
    assert types["enter.weight/half"] == onnx.TensorProto.FLOAT16
    assert types["loud.weight"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("asked", [Asked(precision="int8"), Asked(precision="fp32", gates=Gates(max_degradation=0.1))])
def test_what_needs_data_says_so(outlier, tmp_path, asked):
    with pytest.raises(InputError, match="needs data"):
        release(replace(outlier, data=None), TARGET, asked, tmp_path / "bundle")


def test_without_data_auto_leaves_int8_out(outlier, clock):
    clock(fp16=0.5)
    forms = forms_of(replace(outlier, data=None), TARGET, ALL, Asked())
    choice = choose(forms, ALL, TARGET)
    assert choice.form.precision == "fp16"
    assert choice.verdicts["int8"] == "int8 needs data to be calibrated on"


def test_a_model_in_half_is_delivered_as_it_is(clock, tmp_path):
    torch.manual_seed(3)
    source = Source(model=Outlier().half().eval(), example=torch.randn(2, 16).half())
    clock()
    forms = forms_of(source, TARGET, ("fp32", "int8"), Asked())
    assert [one.refused for one in forms] == [None, "the model is in half precision itself"]
    assert [(one.precision, one.refused) for one in forms_of(source, TARGET, ("fp16",), Asked())] == [("fp16", None)]


def test_an_export_that_is_wrong_names_where(outlier, monkeypatch):
    def wrong(model, example, **settings):
        made = onnx.load_from_string(right(model, example, **settings))
        for tensor in made.graph.initializer:
            if tensor.name == "narrow.weight":
                tensor.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(tensor), tensor.name))
        return made.SerializeToString()

    right = forms_module.exported_bytes
    monkeypatch.setattr(forms_module, "exported_bytes", wrong)
    with pytest.raises(ParityError, match=r"the first layer that departs is narrow \(Linear\)"):
        forms_of(outlier, TARGET, ("fp32",), Asked())


def test_the_operator_set_is_chosen(outlier, clock, tmp_path):
    clock(fp16=0.5)
    for opset in (18, 23):
        bundle, document = release(outlier, TARGET, Asked(precision="fp32,fp16", opset=opset), tmp_path / str(opset))
        assert document["precision"] == "fp16"
        assert {one.domain: one.version for one in onnx.load(bundle.path / "model.onnx").opset_import}[""] == opset


@pytest.mark.parametrize(
    ("runtime", "opset", "message"),
    [
        ("onnxruntime", 17, "opset 17 is none that the exporter writes"),
        ("onnxruntime", 99, "opset 99 is none"),
        ("torch", 20, "opset 20 is one of ONNX"),
    ],
)
def test_an_operator_set_that_there_is_not(outlier, runtime, opset, message):
    with pytest.raises(InputError, match=message):
        forms_of(outlier, load_target(f"local-{runtime}", batch=2), ("fp32",), Asked(opset=opset))


def test_an_operator_set_that_was_not_reached_is_refused(networks, images, monkeypatch):
    right = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: right(*a, **{**k, "opset_version": 18}))
    with pytest.raises(ModelError, match="the exporter wrote opset 18, 21 was asked for"):
        exported_bytes(networks["Mobile"], images[:1], opset=21)


def test_a_batch_is_left_open(outlier, networks, clock, tmp_path):
    clock(fp16=0.5, int8=0.4)
    source, target = replace(outlier, example=outlier.example[:1]), replace(TARGET, batch=1)
    asked = Asked(precision="auto", gates=Gates(max_degradation=0.03), samples=40, dynamic_batch=True)
    bundle, document = release(source, target, asked, tmp_path / "bundle")
    assert document["precision"] == "int8"
    assert [port["shape"] for port in bundle.manifest["inputs"]] == [[None, 16]]
    assert {one["precision"]: one["parity"]["samples"] for one in document["precisions"]} == dict.fromkeys(ALL, 67)
    engine = device_runner.open_engine(bundle.engine)
    inputs = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    (found,) = engine.run({"input": inputs.numpy()})
    alone = [engine.run({"input": one[None].numpy()})[0] for one in inputs]
    assert np.allclose(found, np.concatenate(alone), atol=1e-5)
    assert verify(bundle.path, latency=False)["ok"]


class Whole(torch.nn.Module):
    def forward(self, x):
        return x.mean()


class Mixing(torch.nn.Module):
    def forward(self, x):
        return x.reshape(1, -1)


class Apart(torch.nn.Module):
    def forward(self, x, scale):
        return x * scale


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Whole(), torch.randn(1, 4), "'output' has shape \\[\\] where the batch is left open"),
        (Mixing(), torch.randn(1, 4), "'output' has shape \\[1, '4\\*batch'\\]"),
        (Apart(), (torch.randn(1, 4), torch.randn(4)), "no batch in common"),
        (Apart(), (torch.randn(1, 4), torch.tensor(2.0)), "no batch in common"),
    ],
)
def test_a_model_without_a_batch_has_none_to_leave_open(model, example, message):
    with pytest.raises(InputError, match=message) as caught:
        forms_of(Source(model=model, example=example), replace(TARGET, batch=1), ("fp32",), Asked(dynamic_batch=True))
    assert "--dynamic-batch" in caught.value.hint


@pytest.mark.parametrize(("runtime", "batch"), [("torch", 1), ("ncnn", 1), ("tensorrt", 1), ("onnxruntime", 2)])
def test_a_target_that_takes_no_open_batch(outlier, runtime, batch):
    target = load_target(f"local-{runtime}", batch=batch)
    with pytest.raises(InputError, match=f"{runtime}, batch {batch}\\) takes no open batch"):
        forms_of(outlier, target, ("fp32",), Asked(dynamic_batch=True))


@pytest.mark.parametrize(("runtime", "file"), [("torch", "model.pt2"), ("ncnn", "model.ncnn.zip")])
def test_what_another_runtime_opens_is_delivered(runtime, file, outlier, clock, tmp_path):
    target = load_target(f"local-{runtime}")
    if reason := runtime_for(target).unavailable():
        pytest.skip(reason)
    clock()
    source = replace(outlier, example=outlier.example[:1])
    bundle, document = release(source, target, Asked(precision="auto"), tmp_path / "bundle")
    assert (document["precision"], document["passed"]) == ("fp32", True)
    (facts,) = document["precisions"]
    assert facts["size_bytes"] == (tmp_path / "bundle" / file).stat().st_size
    assert facts["parity"]["samples"] == 64
    assert facts["parity"]["relative_l2"] <= 1e-4
    assert facts["accuracy"]["lost"] == 0
    assert bundle.manifest["engine"] == {"file": file, "runtime": runtime, "threads": 1, "precision": "fp32"}
    assert verify(bundle.path, latency=False)["ok"]
    with pytest.raises(InputError, match="storage gap8 is a form of ONNX files"):
        release(source, target, Asked(), tmp_path / "stored", storage=Storage.parse("gap8"))


def test_an_archive_tells_nothing_of_this_machine(networks, images):
    content = torch_archive(networks["Mobile"], images[:1])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        graph = archive.read("archive/models/model.json").decode()
    assert "torch.ops.aten.conv2d" in graph
    assert not re.search(r"\.py\b|\bline \d", graph)
    assert torch_archive(networks["Mobile"], images[:1]) == content


def test_an_archive_of_another_network_is_not_delivered(outlier, monkeypatch):
    torch.manual_seed(7)
    other = type(outlier.model)().eval()
    right = forms_module.torch_archive
    monkeypatch.setattr(forms_module, "torch_archive", lambda model, example: right(other, example))
    with pytest.raises(ParityError, match="relative L2"):
        forms_of(outlier, load_target("local-torch", batch=2), ("fp32",), Asked())


def test_a_batch_that_ncnn_has_not_is_refused(outlier):
    target = load_target("local-ncnn", batch=2)
    if reason := runtime_for(target).unavailable():
        pytest.skip(reason)
    with pytest.raises(ModelError, match="ncnn takes a batch of 1"):
        forms_of(outlier, target, ("fp32",), Asked())
