"""Bad input ends with exit status 2, an error and a hint, no traceback, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .workshop import COMPRESS, MODEL, QUICK

MACS = f"{COMPRESS} --macs 0.5x"
LATENCY = f"{COMPRESS} --latency 0.5x"


def compress(
    model: str = "models.py:build", shape: str = "1,3,8,8", data: str = "images.npz", output: str = "run"
) -> str:
    return f"compress --model {model} --input-shape {shape} --data {data} --output {output} {QUICK} --macs 0.5x"


BAD = {
    # the model
    "missing file": (compress("missing.py:build"), "no such file: missing.py"),
    "no factory named": (compress("models.py"), "names nothing"),
    "empty model": (compress("''"), "names nothing"),
    "misspelt factory": (compress("models.py:buld"), "did you mean build"),
    "syntax error": (compress("syntax.py:build"), "SyntaxError"),
    "no such package": (compress("no.such:thing"), "no Python module"),
    "not in the zoo": (compress("zoo:nope"), "the zoo has no 'nope'"),
    "fails in forward": (compress("models.py:broken"), "broken on purpose"),
    "nothing to prune": (compress("models.py:nothing_to_prune"), "nothing in this model can be cut"),
    "no module": (compress("models.py:text"), "returned a str"),
    "raising factory": (compress("models.py:raises"), "no such thing"),
    "factory with arguments": (compress("models.py:needs"), "missing 1 required positional argument"),
    "factory that exits": (compress("models.py:leaves"), "SystemExit"),
    # the shape
    "wrong channels": ("export --model models.py:build --input-shape 1,1,8,8 --output out", "to have 3 channels"),
    "wrong shape": (compress(shape="1,3,16,16"), "samples of shape"),
    "one number": (compress(shape="3"), "is not a shape"),
    "zero size": (compress(shape="0,3,8,8"), "is not a shape"),
    "words as shape": (compress(shape="a,b"), "is not a shape"),
    "another batch": (compress(shape="4,3,8,8"), "target local-onnxruntime runs batch 1"),
    # the data
    "no such data": (compress(data="nowhere"), "is no data set"),
    "empty data name": (compress(data="''"), "no data set was named"),
    "empty folder": (compress(data="empty"), "no class folder"),
    "missing npz": (compress(data="missing.npz"), "no such file"),
    "unreadable image": (compress(data="unreadable"), "dog/3.png cannot be read as an image"),
    "data factory of models": (compress(data="models.py:build"), "gave a Sequential"),
    "too many classes": (compress(data="digits"), "10 classes"),
    # the budget
    "budget 0": (f"{COMPRESS} --latency 0ms", "more than zero"),
    "budget 0x": (f"{COMPRESS} --latency 0x", "more than zero"),
    "negative budget": (f"{COMPRESS} --latency -1x", "more than zero"),
    "over 100x": (f"{COMPRESS} --latency 101x", "over 100 times"),
    "absolutely over 100x": (f"{COMPRESS} --macs 900G", "over 100 times"),
    "budget NaN": (f"{COMPRESS} --latency nan", "not a budget"),
    "budget inf": (f"{COMPRESS} --latency inf", "not a budget"),
    "overflowing budget": (f"{COMPRESS} --latency 1e999x", "more than zero and finite"),
    "budget in words": (f"{COMPRESS} --latency half", "not a budget"),
    "budget without unit": (f"{COMPRESS} --latency 0.5", "has no unit"),
    "wrong unit": (f"{COMPRESS} --macs 5ms", "not one of macs"),
    "per cent": (f"{COMPRESS} --size 50%", "could mean to keep or to remove"),
    "several budgets for HALP": (f"{MACS} --size 0.5x --method halp", "takes one budget, and 2 were given"),
    "several values of two budgets": (f"{COMPRESS} --macs 0.8x,0.5x --size 1MB,2MB", "have several values"),
    "several values, one malformed": (f"{COMPRESS} --macs 0.8x,half", "not a budget"),
    "one of several is out of reach": (f"{MACS} --size 10B", "cannot be reached"),
    "no budget": (COMPRESS, "0 budgets were given"),
    "macs out of reach": (f"{COMPRESS} --macs 0.01x", "cannot be reached"),
    "memory in ms": (f"{COMPRESS} --memory 5ms", "not one of memory_bytes"),
    "memory without unit": (f"{COMPRESS} --memory 2", "has no unit"),
    "memory out of reach": (f"{COMPRESS} --memory 10B", "cannot be reached"),
    "size out of reach": (f"{COMPRESS} --size 10B", "cannot be reached"),
    "latency out of reach": (f"{COMPRESS} --latency 0.001x --table table.json", "cannot be reached"),
    # weights
    "missing weights": (f"{MACS} --weights nowhere.pt", "no weight file"),
    "truncated safetensors": (f"{MACS} --weights truncated.weights.safetensors", "nothing in it was run"),
    "truncated pt": (f"{MACS} --weights truncated.weights.pt", "nothing in it was run"),
    "weights that are code": (f"{MACS} --weights models.py", "has the suffix '.py'"),
    "weights of another model": (f"{MACS.replace(':build', ':broken')} --weights weights.pt", "do not fit"),
    # tables
    "missing table": (f"{LATENCY} --table nowhere.json", "cannot read the latency table"),
    "table of another device": (f"{LATENCY} --table table.device.json", "Imaginary 9000"),
    "table of another precision": (f"{LATENCY} --table table.precision.json", "precision fp16 (asked for: fp32)"),
    "table of another batch": (f"{LATENCY} --table table.batch.json", "batch 8 (asked for: 1)"),
    "table of other threads": (f"{LATENCY} --table table.threads.json", "threads 3 (asked for: 1)"),
    "table that lacks a layer": (f"{LATENCY} --table table.lacking.json", "has no entry for"),
    "table cut short": (f"{LATENCY} --table table.cut.json", "not JSON"),
    "table with NaN": (f"{LATENCY} --table table.nan.json", "NaN"),
    "table with an unknown key": (f"{LATENCY} --table table.unknown.json", "comment"),
    "predict lacks a layer": (f"predict {MODEL} --table table.lacking.json", "has no entry for"),
    "predict for another batch": (f"predict {MODEL.replace('1,3', '2,3')} --table table.json", "runs batch 1"),
    "plan that is none": (
        f"predict {MODEL} --table table.json --plan table.json",
        "table.json: plan has schema_version 2",
    ),
    # problems
    "missing problem": ("solve nowhere.json", "cannot read nowhere.json"),
    "problem that is none": ("solve table.json", "the problem"),
    "problem cut short": ("solve table.cut.json", "not JSON"),
    "unknown solver": ("solve problem.json --method magic", "methods: joint, halp"),
    "negative gap": ("solve problem.json --gap -1", "gap"),
    # targets
    "unknown target": (f"{MACS} --target nowhere", "unknown target"),
    "missing target file": (f"{MACS} --target nowhere.toml", "cannot read nowhere.toml"),
    "no table of an absent device": (f"{LATENCY} --target board.toml", "no table of it was given"),
    "an absent device is not profiled": (f"profile {MODEL} --target board.toml --output t.json", "cannot be measured"),
    "precision that is none": (f"profile {MODEL} --precision fp17 --output t.json", "precision is 'fp17'"),
    "precision not there": (
        f"export {MODEL} --target local-openvino --precision fp16 --output out",
        "has no precision 'fp16'",
    ),
    "int8 without data": (f"export {MODEL} --precision int8 --output out", "int8 needs data"),
    "gate without data": (f"export {MODEL} --max-degradation 0.1 --output out", "a gate needs data"),
    "gate below zero": (f"export {MODEL} --data images.npz --max-degradation -1 --output out", "max_degradation is -1"),
    "storage of several": (
        f"export {MODEL} --data images.npz --precision auto --storage gap8 --output out",
        "with 3 precisions",
    ),
    "rounded twice": (
        f"export {MODEL} --data images.npz --precision fp16 --force --storage gap8-int8 --output out",
        "in fp16 already",
    ),
    "compressed for several": (f"{MACS} --precision fp32,int8", "compress prunes for one precision"),
    "sparse in int8": (
        f"{MACS} --sparsify gmp --sparsity 0.5 --precision int8",
        "sparse files are made of float32 engines",
    ),
    "compressed for torch": (f"{MACS} --target local-torch", "takes torch engines, which compress cannot weigh yet"),
    "alone in int8": (
        f"profile {MODEL} --precision int8 --method alone --output t.json",
        "layers alone are measured in fp32",
    ),
    "no threads": (f"profile {MODEL} --threads 0 --output t.json", "greater than or equal to 1"),
    "too many threads": (f"profile {MODEL} --threads 99999 --output t.json", "99999"),
    # settings
    "unknown method": (f"{MACS} --method nope", "'joint', 'joint-oneshot', 'halp'"),
    "unknown criterion": (f"{MACS} --criterion nope", "criterion 'nope' is unknown"),
    "unknown optimizer": (f"{MACS} --optimizer nope", "'sgd' or 'adamw'"),
    "unknown accelerator": (f"{MACS} --accelerator nope", "accelerator"),
    "infinite rate": (f"{MACS} --learning-rate inf", "finite"),
    "NaN rate": (f"{MACS} --learning-rate nan", "learning_rate"),
    "negative epochs": (f"{MACS} --epochs -1", "epochs"),
    "an army of workers": (f"{MACS} --workers 99999", "workers"),
    "seed beyond bounds": (f"{MACS} --seed 99999999999999999999", "--seed"),
    "missing task": (f"{MACS} --task nowhere.py", "no such file"),
    "task without functions": (f"{MACS} --task models.py", "has no function 'loss'"),
    # configuration files
    "missing config": (f"{MACS} --config nowhere.toml", "cannot read nowhere.toml"),
    "config that is no TOML": (f"{MACS} --config toml.toml", "cannot read toml.toml"),
    "unknown key": (f"{MACS} --config unknown.toml", "did you mean 'epochs'?"),
    "a word for a number": (f"{MACS} --config word.toml", "word.toml: epochs cannot be 'many'"),
    "a truth value for a number": (f"{MACS} --config truth.toml", "epochs cannot be True"),
    "a fraction for a count": (f"{MACS} --config fraction.toml", "epochs cannot be 1.5"),
    "a list for a number": (f"{MACS} --config list.toml", "epochs cannot be [1, 2]"),
    "a table for a number": (f"{MACS} --config table.toml", "epochs cannot be {'a': 1}"),
    "a key given twice": (f"{MACS} --config twice.toml", "given twice"),
    "a config in a config": (f"{MACS} --config nested.toml", "unknown key 'config'"),
    # outputs
    "folder in use": (compress(output="used"), "is not empty"),
    "folder of an earlier run": (compress(output="finished"), "--resume"),
    "a file as folder": (compress(output="models.py"), "cannot write to models.py"),
    "below a file": (compress(output="models.py/run"), "cannot write to models.py/run"),
    "picture into nowhere": (f"inspect {MODEL} --svg nowhere/net.svg", "the folder nowhere does not exist"),
    "picture as a folder": (f"inspect {MODEL} --svg empty", "empty is a folder"),
    "bundle over files": (f"export {MODEL} --output used", "is not empty"),
    "bundle below a file": (f"export {MODEL} --output models.py/out", "cannot write to models.py/out"),
    "copy over files": ("export finished --output used", "is not empty"),
    "table into nowhere": (f"profile {MODEL} --output nowhere/t.json", "does not exist"),
    "table as a folder": (f"profile {MODEL} --output empty", "is a folder"),
    "report into nowhere": ("report finished --output nowhere/r.html", "cannot write nowhere/r.html"),
    "demo over files": ("demo --output used", "is not empty"),
    "demo with no budget": ("demo --output fresh --latency 0x", "more than zero"),
    # resuming
    "no run": ("compress --resume --output nowhere", "no run in nowhere"),
    "a folder without a run": ("compress --resume --output used", "no run in used"),
    "a file is no run": ("compress --resume --output models.py", "no run in models.py"),
    "another budget": ("compress --resume --output finished --macs 0.6x", "--macs 0.5x, not 0.6x"),
    "another kind of budget": ("compress --resume --output finished --latency 0.5x", "--latency None, not 0.5x"),
    "other epochs": ("compress --resume --output finished --epochs 7", "--epochs 1, not 7"),
    "a default that was not recorded": ("compress --resume --output finished --method joint", "--method joint-oneshot"),
    "other weights": ("compress --resume --output finished --weights weights.pt", "--weights None"),
    "an impossible value": ("compress --resume --output finished --epochs -1", "--epochs 1, not -1"),
    # bundles, engines, runs
    "verify a run": ("verify finished", "did you mean finished/bundle?"),
    "verify nothing": ("verify nowhere", "no bundle in nowhere"),
    "bench nothing": ("bench nowhere.onnx", "does not exist"),
    "bench ONNX in torch": ("bench finished/model.onnx --target local-torch", "give the model itself (--model)"),
    "bench no engine": ("bench models.py", "cannot open the model"),
    "bench without a subject": ("bench", "bench measures one thing"),
    "bench two things": (f"bench finished/bundle {MODEL}", "bench measures one thing"),
    "bench a shapeless model": ("bench --model models.py:build", "needs --input-shape"),
    "bench an engine with a shape": ("bench finished/model.onnx --input-shape 1,3,8,8", "goes with --model"),
    "bench a changed bundle": ("bench changed", "was changed"),
    "bench a bundle otherwise": ("bench finished/bundle --threads 4", "threads 1, not 4"),
    "export two things": (f"export finished {MODEL} --output out", "export takes one thing"),
    "export nothing": ("export --output out", "export takes one thing"),
    "export a run otherwise": ("export finished --precision fp16 --output out", "--precision cannot change"),
    "export a run packed": ("export finished --storage gap8 --output out", "--storage cannot change"),
    "unknown format": (f"export {MODEL} --format tflite --output out", "format 'tflite' is unknown"),
    "unknown format of a run": ("export finished --format ort,tflite --output out", "format 'tflite' is unknown"),
    "format of no ONNX": (f"export {MODEL} --target local-torch --format ort --output out", "takes torch"),
    "format over files": ("export finished --format ort --output in", "in-ort is not empty"),
    "opset out of reach": (f"export {MODEL} --opset 7 --output out", "opset 7 is none"),
    "opset of a run": ("export finished --opset 20 --output out", "--opset cannot change"),
    "unknown storage": (f"export {MODEL} --storage gap9-xz --output out", "storage 'gap9-xz' is unknown"),
    "export no run": ("export used --output out", "no run in used"),
    "report on no run": ("report used", "no run in used"),
    # the command line itself
    "unknown verb": ("conpress", "Did you mean 'compress'?"),
    "unknown flag": (f"{MACS} --epocs 3", "No such option: --epocs"),
    "flag without value": ("compress --output", "requires an argument"),
    "a word for a count": (f"{MACS} --epochs many", "--epochs"),
    "nothing said": ("compress --output run", "model is missing; input_shape is missing; data is missing"),
    "no output": ("compress", "--output"),
}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in files}


def check_refused(answer: Any, expected: str) -> None:
    assert answer.status == 2, answer
    assert answer.out == ""
    error, hint = (answer.err.find(word) for word in ("error: ", "\nhint: "))
    assert 0 <= error < hint, answer.err
    assert expected in answer.err[error:]
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("line", BAD)
def test_is_refused(line: str, hwprune: Any, workshop: Path) -> None:
    command, expected = BAD[line]
    before = contents(workshop)
    check_refused(hwprune(command), expected)
    assert contents(workshop) == before


def test_out_of_reach_says_what_is_in_reach(hwprune: Any, workshop: Path) -> None:
    """The hint can be followed: the least that is named is reached."""
    refused = hwprune(f"{COMPRESS} --macs 0.01x")
    least = refused.err.split("hint: ask for ")[1].split()[0]
    assert hwprune(f"{COMPRESS} --macs {least}").status == 0


@pytest.mark.parametrize("file", ["evil.pt", "evil2.pt", "evil.safetensors"])
@pytest.mark.parametrize("verb", [MACS, f"export {MODEL} --output out"])
def test_nothing_in_a_pickle_is_run(file: str, verb: str, hwprune: Any, workshop: Path) -> None:
    refused = hwprune(f"{verb} --weights {file}")
    check_refused(refused, "was run")
    assert not list(workshop.glob("**/proof"))
    assert not (workshop.parent.parent / "proof").exists()


@pytest.mark.parametrize(
    "line",
    [
        compress(output="shut/run"),
        f"export {MODEL} --output shut/out",
        "export finished --output shut/out",
        f"profile {MODEL} --output shut/table.json",
        "demo --output shut/demo",
    ],
)
def test_a_read_only_output_is_refused(
    line: str, hwprune: Any, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workshop / "shut").mkdir(mode=0o555)
    really = os.access
    # the superuser may write anywhere, which a test run may be
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut" and really(path, mode))
    check_refused(hwprune(line), "shut")
    assert not any((workshop / "shut").iterdir())


def test_a_changed_bundle_is_not_copied(hwprune: Any, workshop: Path) -> None:
    with open("finished/bundle/model.onnx", "ab") as file:
        file.write(b"x")
    check_refused(hwprune("export finished --output out"), "model.onnx")
    assert not (workshop / "out").exists()
