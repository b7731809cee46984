"""ncnn, for which models are converted from ONNX by pnnx, on this machine."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hwprune import device_runner
from hwprune.engines import Engine
from hwprune.errors import InputError, ModelError
from hwprune.targets._base import Runtime

LIMIT_S = 600
_CLOSE = 1e-3  # relative L2 error of a converted network
_INSTALL = "run: pip install pnnx ncnn"
_WARNING = re.compile(r"\x1b\[[0-9;]*m.*?\x1b\[m")  # in colour, by the ONNX Runtime inside pnnx
_HINT = "pnnx and ncnn have fewer operators than ONNX: choose another runtime for this network, or change the operator"


class Ncnn(Runtime):
    """ncnn on the CPU; batch 1."""

    name = "ncnn"
    model_format = "ncnn"
    kernels = False


def converted(model: bytes) -> bytes:
    """Convert an ONNX model; what it computes is compared with ONNX Runtime on made-up inputs.

    Returns:
        the zip that ``hwprune.engines.ncnn_engine`` opens.

    Raises:
        InputError: pnnx or ncnn is not installed.
        ModelError: it has an operator that pnnx or ncnn lacks, another batch than 1, or becomes another network.
    """
    for package in ("pnnx", "ncnn"):
        if find_spec(package) is None:
            raise InputError(f"{package}, needed to convert models for ncnn, is not installed", hint=_INSTALL)
    reference = _reference(model)
    _check_batch(reference)
    with tempfile.TemporaryDirectory(prefix="pnnx-") as folder:
        archive = _archive(Path(folder), model, reference)
    _check_same(reference, archive)
    return archive


def _reference(model: bytes) -> Engine:
    try:
        engine: Engine = device_runner.open_engine(model)
    except device_runner.BadInput as error:
        raise ModelError(str(error), hint="give an ONNX model") from error
    return engine


def _check_batch(engine: Engine) -> None:
    for port in (*engine.inputs, *engine.outputs):
        if None in port["shape"] or port["shape"][:1] != [1] or port["dtype"] != "float32":
            raise ModelError(
                f"{port['name']!r} is {port['dtype']} {port['shape']}: ncnn takes a batch of 1, fixed shapes, float32",
                hint="export the model with such inputs and outputs, or choose another runtime",
            )


def _archive(folder: Path, model: bytes, reference: Engine) -> bytes:
    """Run pnnx in a folder of its own, which it fills with files."""
    import pnnx

    (folder / "model.onnx").write_bytes(model)
    command = [pnnx.EXEC_PATH, "model.onnx", "fp16=0"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"pnnx did not convert the model in {LIMIT_S} s", hint=_HINT) from None
    param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    said = _WARNING.sub("", (done.stdout + done.stderr).decode(errors="replace")).strip().splitlines()
    if done.returncode != 0 or not param.is_file() or not weights.is_file():
        raise ModelError(f"pnnx cannot convert the model: {' '.join(said[-2:]) or 'it says nothing'}", hint=_HINT)
    unknown = _unknown_layers(param.read_text())
    if unknown:
        raise ModelError(f"ncnn has no {', '.join(unknown)}, which the model uses", hint=_HINT)
    ports = {"inputs": reference.inputs, "outputs": reference.outputs}
    contents: dict[str, Any] = {"ports.json": json.dumps(ports), "model.param": param.read_bytes()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {**contents, "model.bin": weights.read_bytes()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _unknown_layers(param: str) -> list[str]:
    """Operators that pnnx left as they were: nothing that ncnn knows."""
    import ncnn

    kinds = {line.split()[0] for line in param.splitlines()[2:] if line.strip()}
    return sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)


def _check_same(reference: Engine, archive: bytes) -> None:
    import numpy as np

    feeds = device_runner.example_feeds(reference)
    try:
        found = device_runner.open_engine(archive, runtime="ncnn").run(feeds)
    except (device_runner.BadInput, ValueError) as error:  # ValueError: an output has another number of elements
        raise ModelError(f"pnnx made another network of the model: {error}", hint=_HINT) from error
    for port, mine, theirs in zip(reference.outputs, reference.run(feeds), found, strict=True):
        off = float(np.linalg.norm(theirs - mine)) / max(float(np.linalg.norm(mine)), 1e-30)
        if not off <= _CLOSE:
            raise ModelError(
                f"pnnx made another network of the model: {port['name']!r} is off by {off:.2g} (relative L2)",
                hint=_HINT,
            )
