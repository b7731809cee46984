"""Writing a bundle: an engine with everything needed to run it, check it and believe it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hwprune.deploy.bundle import PACKED_FILE, Bundle, sealed, verify
from hwprune.deploy.departure import check_parity
from hwprune.deploy.engine import Engine, in_order, run_engine
from hwprune.deploy.formats import read_model
from hwprune.deploy.packing import pack, unpack
from hwprune.deploy.parity import RELATIVE_L2, compare, held_to
from hwprune.deploy.reference import reference_outputs
from hwprune.deploy.storage import Storage
from hwprune.device_bundle import SCHEMA_VERSION
from hwprune.errors import BundleError, InputError, ParityError
from hwprune.files import replacing_folder, write_atomic
from hwprune.network.forward import Example, mapped, tensors_in
from hwprune.targets import Target, device_files, runtime_for

GOLDEN_L2 = {**RELATIVE_L2, "int8": 5e-2}  # kernels of another device may round a value to the step next to it
LATENCY_TOLERANCE = 0.25  # a device that is this much slower than when the bundle was made is worth a word
PACKAGES = ("hwprune", "torch", "onnx")
_FILE = {"onnx": "model.onnx", "torch": "model.pt2", "ncnn": "model.ncnn.zip"}  # by the runtime's format
_FACTS: dict[str, Any] = {  # what a caller may know, and what stands in the manifest if it does not
    "accuracy": None,
    "baseline_latency": None,
    "budget": None,
    "device": None,
    "latency_ratio": None,
    "measured_latency": None,
    "parity": None,
    "precision": None,
    "predicted_latency_ms": None,
    "preprocessing": {},
    "source": {},
    "versions": {},
}


def write_bundle(
    path: Path | str,
    *,
    engine: Path,
    model: nn.Module,
    example: Example,
    target: Target,
    manifest: Mapping[str, Any] | None = None,
    storage: Storage | None = None,
) -> Bundle:
    """Write a bundle that passes its own verification, or nothing.

    It is built in a hidden neighbour and renamed into place (``files.replacing_folder``).

    The engine as exported must compute what the model computes. Where its weights are rounded, or it is in 8 bits, what
    that makes of the outputs is recorded as ``parity``, and held against no gate: it is for accuracy to judge. Golden
    outputs are then the rounded engine's own, so that a device is still held to what it must compute.

    Args:
        path: the folder; absent or empty.
        engine: the exported model, in the format of the target's runtime.
        model: the torch model it was exported from.
        example: real inputs, at least as many as the engine's batch. Parity is checked on all of them; the
            first batch becomes ``golden.npz``, with the outputs that torch gives.
        target: what the engine is for.
        manifest: what else is known, JSON-able: ``preprocessing`` (what to do to an image before it is
            fed), ``predicted_latency_ms``, ``measured_latency`` and ``baseline_latency`` (``Latency.to_dict()``),
            ``latency_ratio`` (median, low, high), ``device`` (fingerprint of where it was measured),
            ``accuracy``, ``parity`` (on more inputs than the example), ``precision`` (how it was brought into it),
            ``budget``, ``source``, ``versions``; numbers are those of the engine as stored.
        storage: the form of the engine's file (an ONNX file's); None: the file as it was given.

    Raises:
        BundleError: there is something in the folder.
        InputError: the folder cannot be written, too few inputs were given, or the target's engines have one form only.
        ParityError: the engine does not compute what the model computes.
        ValueError: ``manifest`` has another key, or NaN.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BundleError(f"{path} exists", hint="give a new folder, or remove what is there")
    facts = _facts(manifest or {})
    content, runtime = read_model(engine), runtime_for(target)
    opened, name = runtime.open(content, target), _FILE[runtime.model_format]
    precision = held_to(model, target.precision)
    parity = compare(model, opened, [example], precision=precision)
    if precision != "int8":
        onnx = content if runtime.model_format == "onnx" else None
        check_parity(parity, precision, model=model, example=_first_batch(opened, example), content=onnx)
    about: dict[str, Any] = {}
    if storage is not None:
        content, plain, about = _stored(engine, target, storage)
        opened, name = runtime.open(plain, target), PACKED_FILE if storage.packed else name
        parity = compare(model, opened, [example], precision=precision)
    rounded = precision == "int8" or (storage is not None and storage.precision != "fp32")
    batch = _first_batch(opened, example)
    golden, ports = _golden(opened, None if rounded else model, batch, GOLDEN_L2[precision])
    document = {
        **_about_engine(opened, target, name, about),
        "golden": ports,
        "parity": facts["parity"] or parity.to_dict(),
        **_about_run(facts),
    }
    ours = device_files(target.runtime, packed=name == PACKED_FILE)
    _write(path, {name: content, "golden.npz": golden, **ours}, document)
    return Bundle.load(path)


def _facts(given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(given) - set(_FACTS))
    if unknown:
        raise ValueError(f"unknown manifest keys {unknown}; allowed: {', '.join(_FACTS)}")
    return {**_FACTS, **given}


def check_storable(storage: Storage, target: Target) -> None:
    """Refuse a form of engine files that a target's engines do not have.

    Raises:
        InputError: its runtime opens another format than ONNX, or the form rounds what is rounded already.
    """
    if runtime_for(target).model_format != "onnx":
        raise InputError(
            f"storage {storage} is a form of ONNX files, and target {target.name!r} takes another format",
            hint="leave the storage out, or take a target whose runtime opens ONNX",
        )
    if "fp32" not in (storage.precision, target.precision):
        raise InputError(
            f"storage {storage} rounds the weights of an engine that is in {target.precision} already",
            hint="give a storage that rounds nothing, such as gap8 or gap8-xz, or precision fp32",
        )


def _stored(engine: Path, target: Target, storage: Storage) -> tuple[bytes, bytes, dict[str, Any]]:
    """The file of an engine in a form, what its runtime opens, and the manifest's words about them."""
    check_storable(storage, target)
    content = pack(engine, storage)
    plain = unpack(content)
    sizes = {"packed_bytes": len(content), "unpacked_bytes": len(plain) if storage.packed else engine.stat().st_size}
    return content, plain, {"storage": str(storage), **sizes}


def _about_engine(engine: Engine, target: Target, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": target.to_dict(),
        "engine": {
            "file": name,
            "runtime": target.runtime,
            "threads": target.threads,
            "precision": target.precision,
            **about,
        },
        "inputs": engine.inputs,
        "outputs": engine.outputs,
    }


def _about_run(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Predicted and measured numbers never share a field."""
    return {
        "preprocessing": facts["preprocessing"],
        "latency": {
            "predicted_ms": facts["predicted_latency_ms"],
            "measured_ms": facts["measured_latency"],
            "baseline_ms": facts["baseline_latency"],
            "ratio": facts["latency_ratio"],
            "tolerance": LATENCY_TOLERANCE,
        },
        "accuracy": facts["accuracy"],
        "precision": facts["precision"],
        "budget": facts["budget"],
        "source": facts["source"],
        "device": facts["device"],
        "versions": {**{name: metadata.version(name) for name in PACKAGES}, **facts["versions"]},
    }


def _first_batch(engine: Engine, example: Example) -> Example:
    sizes = {port["shape"][0] for port in engine.inputs if port["shape"] and port["shape"][0] is not None}
    if len(sizes) != 1:  # nothing that could be told apart as samples
        return example
    (size,) = sizes
    for tensor in tensors_in(example):
        if tensor.shape[0] < size:
            raise InputError(
                f"{tensor.shape[0]} inputs were given for an engine of batch {size}",
                hint=f"give {size} real inputs or more",
            )
    return mapped(lambda tensor: tensor[:size], example)


def _golden(engine: Engine, model: nn.Module | None, inputs: Example, limit: float) -> tuple[bytes, dict[str, Any]]:
    """``golden.npz`` and the manifest's key to it; without a model, outputs are the engine's."""
    ordered = in_order(engine, inputs)
    outputs = run_engine(engine, inputs) if model is None else reference_outputs(model, inputs)
    arrays: dict[str, Any] = {f"input_{i}": tensor.detach().cpu().numpy() for i, tensor in enumerate(ordered)}
    arrays |= {f"output_{i}": tensor.numpy() for i, tensor in enumerate(outputs)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue(), {
        "file": "golden.npz",
        "inputs": {port["name"]: f"input_{i}" for i, port in enumerate(engine.inputs)},
        "outputs": {port["name"]: f"output_{i}" for i, port in enumerate(engine.outputs)},
        "relative_l2": limit,
    }


def _write(path: Path, contents: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
    try:
        with replacing_folder(path) as place:
            _write_files(place, contents, document)
            _must_verify(place)
    except OSError as error:
        raise InputError(
            f"cannot write the bundle {path}: {error.strerror or error}",
            hint="choose a folder with space and write permission",
        ) from error


def _write_files(place: Path, contents: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
    for name, content in contents.items():
        write_atomic(place / name, content)
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }
    write_atomic(place / "manifest.json", sealed({**document, "files": files}))


def _must_verify(place: Path) -> None:
    report = verify(place, latency=False)
    if not report["ok"]:
        failed = "; ".join(f"{check['name']}: {check['detail']}" for check in report["checks"] if not check["ok"])
        raise ParityError(f"the bundle fails its own verification: {failed}", hint="nothing was written")
