"""Nothing of a bundle is opened, parsed or imported before it is found to be as it was written."""

from __future__ import annotations

import hashlib
import os
import random
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwprune import device_runner, device_verbs
from hwprune.device_bundle import HEAD, MAX_BYTES, Malformed, read_bundle, verify_bundle
from hwprune.engines import onnxruntime_engine

from .bundle_folder import BundleFolder


@pytest.fixture
def bundle(tmp_path: Path) -> BundleFolder:
    (tmp_path / "bundle").mkdir()
    return BundleFolder(tmp_path / "bundle")


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening an engine or an array, by whatever way, is a failure of the test."""

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("something of a bundle that was tampered with was opened")

    monkeypatch.setattr(device_runner, "open_engine", opened)
    monkeypatch.setattr(onnxruntime_engine.Engine, "__init__", opened)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(np, "load", opened)


def refusal(path: Path) -> str:
    """Why a bundle is not verified, with the check that failed."""
    report = verify_bundle(path, latency=False)
    assert report["ok"] is False
    (check,) = report["checks"]
    assert check["ok"] is False
    return f"{check['name']}: {check['detail']}"


def changed(content: bytes, chance: random.Random) -> bytes:
    """One byte changed, put in or taken out, or the end cut off."""
    place, byte = chance.randrange(len(content)), bytes([chance.randrange(256)])
    how = chance.choice(("change", "insert", "delete", "truncate"))
    if how == "change":
        return content[:place] + bytes([content[place] ^ chance.randrange(1, 256)]) + content[place + 1 :]
    if how == "insert":
        return content[:place] + byte + content[place:]
    return content[:place] + (content[place + 1 :] if how == "delete" else b"")


def test_a_thousand_small_changes_anywhere_are_refused(bundle: BundleFolder, nothing_opens: None) -> None:
    chance, seen = random.Random(0), set()
    files = sorted(bundle.path.iterdir())
    for _ in range(1000):
        path = chance.choice(files)
        content = path.read_bytes()
        path.write_bytes(changed(content, chance))
        check = "manifest: " if path.name == "manifest.json" else "hashes: "
        assert refusal(bundle.path).startswith(f"{check}{path.name} was changed after it was written")
        path.write_bytes(content)
        seen.add(path.name)
    assert seen == {*bundle.manifest["files"], "manifest.json"}
    with pytest.raises(AssertionError, match="was opened"):  # the trap is set: the whole bundle does get there
        device_verbs._opened(read_bundle(bundle.path))


# -- manifests that somebody made: their digest is right ------------------------------------------------------


def crafted(bundle: BundleFolder, old: bytes, new: bytes) -> None:
    content = (bundle.path / "manifest.json").read_bytes()
    assert content.count(old) >= 1
    rest = content.partition(b"\n")[2].replace(old, new, 1)
    head = (HEAD % hashlib.sha256(b"\n" + rest).hexdigest()).encode()
    (bundle.path / "manifest.json").write_bytes(head + b"\n" + rest)


TOLERANCE = b'"tolerance": 0.25'


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (TOLERANCE, TOLERANCE + b", " + TOLERANCE, "key twice"),
        (b'"target"', b'"files": {}, "target"', "key twice"),
        (b'"target"', b'"manifest_sha256": "", "target"', "key twice"),
        (b"0.25", b"NaN", "infinite, none, or too large"),
        (b"0.25", b"Infinity", "infinite, none, or too large"),
        (b"0.25", b"-Infinity", "infinite, none, or too large"),
        (b"0.25", b"1e999", "infinite, none, or too large"),
        (b"0.25", b"1e30", "infinite, none, or too large"),
        (b"0.25", b"9" * 5000, "infinite, none, or too large"),
        (b"0.25", b"-" + b"9" * 20, "infinite, none, or too large"),
        (b"0.25", b"true", "'tolerance' in 'latency' in the manifest is bool"),
        (b"0.25", b"null", "'tolerance' in 'latency' in the manifest is NoneType"),
        (b"0.25", b"01", "not JSON"),
        (b"0.25", b"[" * 40 + b"]" * 40, "nested too deeply"),
        (b"0.25", b"[" * 200_000, "nested too deeply"),
        (b"0.25", b'{"a":' * 3000, "nested too deeply"),
        (b'"here"', b'"\xff"', "not UTF-8"),
        (b'"target"', b'} "target"', "not JSON"),
        (b'"schema_version": 2', b'"schema_version": 1', "schema_version 1, 2 is read here"),
        (b'"schema_version": 2', b'"schema_version": "2"', "schema_version '2'"),
        (b'"schema_version": 2,', b"", "schema_version None"),
        (b'"threads": 1', b'"threads": 1.5', "'threads' in 'engine' in the manifest is float"),
        (b'"threads": 1', b'"threads": true', "is bool"),
        (b'"runtime": "onnxruntime"', b'"runtime": ["onnxruntime"]', "is list, it must be str"),
        (b'"shape": [', b'"shape": ["1", ', r"'shape' in 'inputs' in the manifest\[0\]\[0\] is str"),
        (b'"bytes": ', b'"bytes": 0.', "'bytes' in 'model.onnx' in the manifest's files is float"),
        (b'"sha256": "', b'"sha256": null, "x": "', "is NoneType, it must be str"),
        (b'"file": "model.onnx"', b'"file": "../model.onnx"', "the engine's file '../model.onnx' is not among"),
        (b'"file": "golden.npz"', b'"file": "/etc/passwd"', "the golden's file '/etc/passwd' is not among"),
    ],
)
def test_manifests_that_are_none(
    bundle: BundleFolder, nothing_opens: None, old: bytes, new: bytes, reason: str
) -> None:
    crafted(bundle, old, new)
    with pytest.raises(Malformed, match=reason):
        verify_bundle(bundle.path)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"null", b"{}", b'{"manifest_sha256": "' + b"0" * 64 + b'",'])
def test_what_does_not_begin_with_its_own_digest_is_not_parsed(bundle: BundleFolder, text: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(text)
    assert refusal(bundle.path).startswith("manifest: manifest.json was changed after it was written, or")


def test_a_huge_manifest_is_not_read(bundle: BundleFolder) -> None:
    with (bundle.path / "manifest.json").open("ab") as file:
        file.truncate(MAX_BYTES + 1)
    assert f"{MAX_BYTES + 1} bytes, at most {MAX_BYTES} are right" in refusal(bundle.path)


NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "..\\x",
    "C:x",
    "run.py\0",
    "sub/../../x",
    "x.py ",
    "x.py.",
    "ü.py",
]
DEVICES = ["CON", "nul.txt", "com1", "Lpt9.onnx", "aux.py"]


@pytest.mark.parametrize("name", [*NAMES, *DEVICES, "-x", ".hidden", "a" * 101, "x\n", "model.onnx:stream"])
def test_names_that_are_no_plain_ones(bundle: BundleFolder, nothing_opens: None, name: str) -> None:
    bundle.manifest["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    bundle.save()
    with pytest.raises(Malformed, match="only plain file names inside the bundle are allowed"):
        verify_bundle(bundle.path)


@pytest.mark.parametrize("name", ["MODEL.onnx", "Run.py", "manifest.json", "Manifest.Json", "manifest.sig"])
def test_names_that_are_one_where_case_does_not_matter(bundle: BundleFolder, nothing_opens: None, name: str) -> None:
    bundle.add(name.swapcase(), b"") if name.swapcase() not in os.listdir(bundle.path) else None
    bundle.manifest["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    bundle.save()
    with pytest.raises(Malformed, match="differs in its case only"):
        verify_bundle(bundle.path)


@pytest.mark.parametrize("size", [0, 1 << 60, -1])
def test_a_size_that_was_recorded_wrong(bundle: BundleFolder, nothing_opens: None, size: int) -> None:
    bundle.manifest["files"]["run.py"]["bytes"] = size
    bundle.save()
    assert f"exactly {size} are right" in refusal(bundle.path)


# -- what lies there in a file's place, or beside -------------------------------------------------------------


def soft_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / "elsewhere")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def door(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "run.py", "device_verbs.py", "manifest.json"])
@pytest.mark.parametrize(
    ("become", "reason"),
    [
        (soft_link, "is no plain file"),
        (hard_link, "has 2 names"),
        (folder, "is no plain file"),
        (pipe, "is no plain file"),
        (endless, "is no plain file"),
        (door, "is no plain file"),
        (Path.unlink, "is missing"),
    ],
)
def test_what_is_no_file_of_the_bundle_is_not_followed(
    bundle: BundleFolder, nothing_opens: None, name: str, become: Callable[[Path], None], reason: str
) -> None:
    become(bundle.path / name)
    if (name, become) == ("manifest.json", Path.unlink):
        with pytest.raises(Malformed, match=r"no bundle in .*manifest\.json is missing"):
            verify_bundle(bundle.path)
        return
    assert f"{name} {reason}" in refusal(bundle.path)


@pytest.mark.parametrize("name", ["json.py", "numpy.py", "x.so", "weights.bin", ".hidden", "Model.onnx", "a\x1b[2J"])
def test_what_is_not_listed_is_refused(bundle: BundleFolder, nothing_opens: None, name: str) -> None:
    (bundle.path / name).write_bytes(b"")
    assert refusal(bundle.path) == f"hashes: {ascii(name)[1:-1]} is not listed in the manifest"


def test_a_folder_that_is_not_listed_is_refused(bundle: BundleFolder, nothing_opens: None) -> None:
    (bundle.path / "__pycache__").mkdir()
    assert refusal(bundle.path) == "hashes: __pycache__ is not listed in the manifest"


EVIL = "import pathlib; pathlib.Path({marker!r}).touch()\n"


@pytest.mark.parametrize(
    "name", ["json.py", "argparse.py", "hashlib.py", "numpy.py", "onnxruntime.py", "device_verbs.py"]
)
def test_no_code_is_run_that_is_not_the_bundles(bundle: BundleFolder, tmp_path: Path, name: str) -> None:
    """As users call it: its folder is the first place where Python looks."""
    marker = tmp_path / "executed"
    (bundle.path / name).write_text(EVIL.format(marker=str(marker)))
    command = [sys.executable, "run.py", "verify", "--no-latency"]
    for path in ("", os.pathsep):  # an empty entry is the current folder
        settings: dict[str, Any] = {"cwd": bundle.path, "env": {**os.environ, "PYTHONPATH": path}, "timeout": 120}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith(f"FAILED hashes: {name} ")
        assert not marker.exists()


def test_what_is_used_is_what_was_hashed(bundle: BundleFolder, tmp_path: Path) -> None:
    """Files are exchanged between the check and the use."""
    marker = tmp_path / "executed"
    tool = runpy.run_path(str(bundle.path / "run.py"))
    checked = tool["read_bundle"](bundle.path)
    for path in bundle.path.iterdir():
        path.write_text(EVIL.format(marker=str(marker)))
    names = {name.removesuffix(".py") for name in checked.contents if name.endswith(".py")}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        report = tool["_verbs"](checked).verify(checked, latency=False)
        used = {name: sys.modules[name] for name in ("device_runner", "device_verbs", "onnxruntime_engine")}
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
    assert report["ok"]
    assert all(not hasattr(module, "__file__") for module in used.values())  # none of them was found on the disk
    assert not marker.exists()


def test_code_of_a_bundle_that_nobody_signed_is_not_run_by_another_ones_tool(
    bundle: BundleFolder, tmp_path: Path
) -> None:
    marker, home = tmp_path / "executed", tmp_path / "home"
    shutil.copytree(bundle.path, home)
    bundle.add("device_verbs.py", EVIL.format(marker=str(marker)).encode())
    command = [sys.executable, str(home / "run.py"), "verify", str(bundle.path), "--no-latency"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not marker.exists()
