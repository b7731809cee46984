"""The engine of a bundle in other formats, to hand over beside it: each is opened again and held against the model."""

from __future__ import annotations

import hashlib
import importlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprune import device_bundle, device_runner
from hwprune.deploy import triton
from hwprune.deploy.bundle import Bundle
from hwprune.deploy.values import relative_l2
from hwprune.errors import BundleError, InputError, ModelError, ParityError, first_line
from hwprune.files import replacing_folder
from hwprune.targets import Target, runtime_for

_MODEL_NAME = re.compile(r"[^A-Za-z0-9_.-]")


def parse_formats(text: str, target: Target) -> tuple[str, ...]:
    """``ort``; or several: ``ort,openvino,triton``.

    Raises:
        InputError: there is no such format, its runtime is not installed, or the target's engines are not ONNX.
    """
    asked = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for one in asked:
        if one not in FORMATS:
            raise InputError(f"format {one!r} is unknown", hint=f"{', '.join(FORMATS)}, or a list of these")
        runtime, _ = FORMATS[one]
        if reason := device_runner.engine_module(runtime).available():
            raise InputError(f"format {one!r} cannot be written: {reason}", hint="or leave the format out")
    made = runtime_for(target).model_format
    if made != "onnx":
        raise InputError(
            f"formats are made from ONNX engines, and target {target.name!r} takes {made}",
            hint="choose a target whose runtime opens ONNX, such as local-onnxruntime",
        )
    return asked


def folders_of(output: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Where formats go: beside the bundle, in folders of its name and theirs; in it is only what it lists."""
    return {one: output.absolute().with_name(f"{output.absolute().name}-{one}") for one in formats}


def hand_over(bundle: Bundle, formats: Sequence[str]) -> list[dict[str, Any]]:
    """Write a bundle's engine in other formats beside it, each only if it computes what the model computes.

    ``onnx`` is the plain file. ``ort`` is ONNX Runtime's own format: fully optimised, but for layouts of this CPU
    alone. ``openvino`` is its IR, in the engine's own precision. ``triton`` is a repository with one model, named like
    the bundle. They are opened by their runtime (``triton`` by ONNX Runtime, and its configuration is parsed again),
    must have the bundle's inputs and outputs, and are held against the golden outputs by the bundle's own gate. The
    same engine gives the same bytes, but for ``ort``.

    Args:
        bundle: of a target whose runtime opens ONNX.
        formats: of :func:`parse_formats`; their folders (:func:`folders_of`) are replaced.

    Returns:
        for each its ``format``, ``folder``, ``files`` (by path inside: ``bytes``, ``sha256``) and ``relative_l2``.

    Raises:
        InputError: a format has no form of this engine, or cannot be written.
        BundleError: the bundle was changed.
        ParityError: what was converted does not compute what the model computes; that format is not left.
    """
    parse_formats(",".join(formats), bundle.target)
    content, found = bundle.engine, []
    for one, folder in folders_of(bundle.path, formats).items():
        runtime, write = FORMATS[one]
        try:
            with replacing_folder(folder) as place:
                model = write(content, place, bundle)
                off = _departure(model, runtime, bundle, one)
                files = {
                    str(path.relative_to(place)): _told(path) for path in sorted(place.rglob("*")) if path.is_file()
                }
        except OSError as error:
            raise InputError(
                f"cannot write {folder}: {error.strerror or error}", hint="choose a folder with space and permission"
            ) from error
        found.append({"format": one, "folder": str(folder), "files": files, "relative_l2": off})
    return found


def _told(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _departure(model: Path, runtime: str, bundle: Bundle, name: str) -> float:
    """Relative L2 error of the worst output on the golden inputs."""
    manifest, golden = bundle.manifest, bundle.manifest["golden"]
    try:
        engine = device_runner.open_engine(str(model), runtime=runtime, threads=bundle.target.threads)
        content = device_bundle.read_file(bundle.path, manifest, golden["file"])
    except device_runner.BadInput as error:
        raise ModelError(f"format {name!r}: {error}", hint="leave the format out, or report this model") from error
    except device_bundle.Refused as error:
        raise BundleError(f"{bundle.path}: {error}", hint="write the bundle again") from error
    for end in ("inputs", "outputs"):
        if getattr(engine, end) != manifest[end]:
            raise ParityError(
                f"in format {name!r} the {end} are {getattr(engine, end)}, in the bundle {manifest[end]}",
                hint="leave the format out, or report this model",
            )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        feeds = {port["name"]: arrays[golden["inputs"][port["name"]]] for port in manifest["inputs"]}
        wanted = [arrays[golden["outputs"][port["name"]]] for port in manifest["outputs"]]
    off = relative_l2([wanted], [engine.run(feeds)])
    if not off <= golden["relative_l2"]:
        raise ParityError(
            f"in format {name!r} the outputs differ from the golden ones by {off:.3g} (relative L2); "
            f"{golden['relative_l2']:g} is allowed",
            hint="leave the format out: its converter is wrong for this model",
        )
    return off


def _write_onnx(content: bytes, place: Path, bundle: Bundle) -> Path:
    path = place / "model.onnx"
    path.write_bytes(content)
    return path


def _write_ort(content: bytes, place: Path, bundle: Bundle) -> Path:
    ort, path = importlib.import_module("onnxruntime"), place / "model.ort"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:  # a different class per cause
        raise ModelError(
            f"onnxruntime cannot write its own format: {first_line(error)}", hint="leave the format out"
        ) from error
    return path


def _write_openvino(content: bytes, place: Path, bundle: Bundle) -> Path:
    openvino, path = importlib.import_module("openvino"), place / "model.xml"
    try:
        model = openvino.Core().read_model(content)
        for number, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() == node.get_name():  # made up, from a counter of the process
                node.set_friendly_name(f"{node.get_type_name()}/{number}")
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except Exception as error:  # RuntimeError for all causes, and TypeError
        raise ModelError(
            f"openvino cannot convert the model: {first_line(error)}", hint="leave the format out"
        ) from error
    return path


def _write_triton(content: bytes, place: Path, bundle: Bundle) -> Path:
    name = _MODEL_NAME.sub("_", bundle.path.absolute().name)
    ports = {end: bundle.manifest[end] for end in ("inputs", "outputs")}
    text = triton.configuration(name, **ports, target=bundle.target)
    said = triton.ports_in(text)
    if said != ports:
        raise ModelError(f"Triton's configuration says {said}, the engine {ports}", hint="report this model to hwprune")
    version = place / name / "1"
    version.mkdir(parents=True)
    (place / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return _write_onnx(content, version, bundle)


FORMATS: dict[str, tuple[str, Callable[[bytes, Path, Bundle], Path]]] = {  # the runtime that opens it, what writes it
    "onnx": ("onnxruntime", _write_onnx),
    "ort": ("onnxruntime", _write_ort),
    "openvino": ("openvino", _write_openvino),
    "triton": ("onnxruntime", _write_triton),
}
