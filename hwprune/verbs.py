"""The verbs that do not compress: inspect, profile, predict, export, bench, load, report.

Each takes what a user names (a model, its inputs, a target) and returns a frozen value or the document
that the command line prints with ``--json``.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hwprune.budget import Plan
from hwprune.compression import Progress, RunFolder
from hwprune.deploy import Bundle, Storage, measure_one, verify
from hwprune.deploy.formats import engine_at, engine_bytes
from hwprune.deploy.forms import Asked, Source
from hwprune.deploy.profiling import Method, pack_model, profile_model, unpack_model
from hwprune.deploy.release import release
from hwprune.errors import BundleError, InputError
from hwprune.files import replacing_folder, write_atomic
from hwprune.footprint import Footprint, footprint
from hwprune.inputs import spelled
from hwprune.latency import LatencyTable, Prediction
from hwprune.latency import predict as predict_layers
from hwprune.network import cut, inspection, load_model, load_weights, trace
from hwprune.network.forward import Example
from hwprune.network.inputs import Inputs, described, example_for
from hwprune.targets import Target, load_target, runtime_for
from hwprune.targets.connection import device_at
from hwprune.training import ClassificationTask, load_data, load_task

if TYPE_CHECKING:
    from hwprune.report import Form

ModelLike = str | nn.Module


def inspect(
    model: ModelLike,
    *,
    input_shape: Inputs,
    svg: Path | str | None = None,
    head_sizes: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Say what can be cut from a model, what that is worth, and what cannot be cut and why.

    Args:
        model: a module, or how to find one (``file.py:factory``, ``zoo:NAME``…).
        input_shape: of one input, batch first, or as in :func:`profile`.
        svg: where to draw the network with its channel groups.
        head_sizes: the size of attention heads may be cut as well as their number.
        seed: of random weights and inputs.

    Returns:
        the document that :func:`hwprune.network.inspection` describes.

    Raises:
        InputError: the model or shape is wrong.
        ModelError: the model cannot be copied, or its forward fails.
        OSError: the picture cannot be written.
    """
    from hwprune.report import network_svg

    any_device = Target(name="inspect", batch=described(input_shape)[0].shape[0])
    document = inspection(trace(*_load(model, input_shape, any_device, None, seed), head_sizes=head_sizes))
    if svg is not None:
        title = model if isinstance(model, str) else type(model).__name__
        write_atomic(Path(svg), network_svg(document, title=title))
    return document


def profile(
    model: ModelLike,
    *,
    input_shape: Inputs,
    target: str | Path | Target = "local-onnxruntime",
    method: Method = "in-context",
    points: int = 5,
    unpack: Path | None = None,
    head_sizes: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a latency table that covers a model and everything it can be cut to.

    Args:
        model: a module, or how to find one (``file.py:factory``, ``zoo:NAME``…); its weights do not matter.
        input_shape: of one input, batch first (the target's batch size replaces the first number); for several
            inputs or other types the text that the command line takes, or an example: a tensor, a tuple of tensors or
            a dictionary of them by the names of ``forward``'s arguments.
        target: where to measure.
        method: ``in-context``, from whole networks of many widths; ``alone``, every kind of layer by itself.
        points: of method ``alone``: samples per channel dimension of a layer.
        unpack: what the worker of a kit (:func:`pack_profile`) wrote on the device; nothing is measured then.
        head_sizes: cover cuts of the size of attention heads, too.
        seed: of random inputs and widths.
        progress: where to say what is going on.

    Raises:
        InputError: the model, inputs or target is wrong.
        MeasurementError: the device was too busy.
    """
    progress = progress or Progress(quiet=True)
    chosen = load_target(target)
    if unpack is None:
        chosen.check_reachable()
    dense, example = _load(model, input_shape, chosen, None, seed)
    network = trace(dense, example, head_sizes=head_sizes)
    if unpack is not None:
        return unpack_model(dense, example, network, chosen, unpack, seed=seed)
    with progress.bar("latency table") as advance:
        return profile_model(dense, example, network, chosen, method=method, points=points, seed=seed, progress=advance)


def pack_profile(
    model: ModelLike,
    *,
    input_shape: Inputs,
    target: str | Path | Target,
    path: Path,
    head_sizes: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a kit that measures a latency table on a device that cannot be reached from here.

    Args:
        model: a module, or how to find one; its weights do not matter.
        input_shape: as in :func:`profile`.
        target: the device.
        path: the kit, a tar file.
        head_sizes: as in :func:`profile`.
        seed: of random inputs and widths.

    Raises:
        InputError: the model, inputs or target is wrong, or the kit cannot be written.
    """
    chosen = load_target(target)
    dense, example = _load(model, input_shape, chosen, None, seed)
    visits = pack_model(dense, example, trace(dense, example, head_sizes=head_sizes), chosen, path, seed=seed)
    return {"kit": str(path), "visits": visits, "target": chosen.to_dict()}


def predict(
    model: ModelLike,
    *,
    input_shape: Inputs,
    table: LatencyTable | Path | str,
    plan: Plan | Path | None = None,
) -> Prediction:
    """Predict a model's latency from a table.

    Args:
        model: a module, or how to find one.
        input_shape: as in :func:`profile`.
        table: of the device.
        plan: predict the network cut to it.

    Raises:
        MissingLatencyError: the table lacks a layer; names it and how to measure it.
        InputError: the model, inputs, table or plan is wrong.
    """
    return predict_all(model, input_shape=input_shape, table=table, plan=plan)[0]


def predict_all(
    model: ModelLike,
    *,
    input_shape: Inputs,
    table: LatencyTable | Path | str,
    plan: Plan | Path | None = None,
) -> tuple[Prediction, Footprint]:
    """Predict latency from a table, and work out parameters, bytes of weights and of activations.

    Arguments and errors are those of :func:`predict`.
    """
    chosen = table if isinstance(table, LatencyTable) else LatencyTable.load(Path(table))
    dense, example = _load(model, input_shape, chosen.target, None, 0)
    network = trace(dense, example, verify=False)
    widths = network.dense_widths
    if plan is not None:
        widths = {**widths, **(plan if isinstance(plan, Plan) else Plan.load(plan)).widths}
    target = chosen.target
    taken = footprint(network, runtime_for(target), target.precision, widths)
    return predict_layers(network.layers, chosen, widths), taken


def load(source: Plan | Path | str, model: nn.Module) -> nn.Module:
    """Rebuild a compressed network from a fresh instance of the dense one.

    Args:
        source: a plan (the fresh instance's own weights are kept), the path of a ``plan.json``, or the
            folder of a finished run (the run's trained weights are loaded).
        model: a fresh instance of the model that was compressed; it stays as it is.

    Raises:
        InputError: the plan does not fit the model, or there is no such run.
    """
    model = load_model(model)  # without what it may be wrapped in
    if isinstance(source, Plan):
        return cut(model, source.cuts)
    path = Path(source)
    if not path.is_dir():
        return cut(model, Plan.load(path).cuts)
    smaller = cut(model, Plan.load(path / "plan.json").cuts)
    load_weights(smaller, path / "model.safetensors")
    return smaller


def export(
    model: ModelLike,
    *,
    input_shape: Inputs,
    output: Path,
    weights: Path | None = None,
    data: str | Path | None = None,
    task: Path | None = None,
    target: str | Path | Target = "local-onnxruntime",
    asked: Asked | None = None,
    storage: Storage | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Export a model to a bundle: one file that the target's runtime opens, held against torch and measured.

    That is ONNX (packed, if a storage is given); for torch an archive of ``torch.export``, for ncnn a zip of its files.

    Of several precisions the fastest is written that passes; none, if none does. Without a data set, parity is checked
    on random inputs, no accuracy is recorded, and there is no int8.

    Raises:
        InputError: the model, inputs, data, target or output is wrong.
        ParityError: the engine does not compute what the model computes.
        MeasurementError: the device was too busy.
    """
    chosen = load_target(target)
    chosen.check_reachable()
    RunFolder.check_free(Path(output))
    dense, example = _load(model, input_shape, chosen, weights, seed)
    judged = ClassificationTask() if task is None else load_task(task)
    known = None if data is None else load_data(data, input_shape=spelled(described(input_shape)), seed=seed)
    source = Source(model=dense, example=example, data=known, task=judged)
    bundle, found = release(source, chosen, replace(asked or Asked(), seed=seed), Path(output), storage=storage)
    if bundle is None:
        return {"bundle": None, **found}
    told = {key: bundle.manifest[key] for key in ("parity", *(["engine"] if storage else []))}
    return {"bundle": str(output), **found, "latency_ms": _brief(found["latency_ms"]), **told}


def bench_target(
    subject: Path | str | None,
    target: str | Path | None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    batch: int | None = None,
) -> Target:
    """What to measure on: a bundle on the conditions it was made for, anything else on this machine's defaults.

    Args:
        subject: what is to be measured; a folder is a bundle.
        target: a known name or a TOML file; None to follow the bundle.
        threads: replaces the target's own, unless None.
        precision: likewise.
        batch: likewise.

    Raises:
        InputError: no such target, or it is not what the bundle was made for.
    """
    asked = {"threads": threads, "precision": precision, "batch": batch}
    if subject is None or not Path(subject).is_dir():
        return load_target(target or "local-onnxruntime", **asked)  # type: ignore[arg-type]
    made_for = replace(Bundle.load(subject).target, connection="local")
    chosen = load_target(target or made_for, **asked)  # type: ignore[arg-type]
    differing = [
        f"{name} {getattr(made_for, name)}, not {getattr(chosen, name)}"
        for name in ("runtime", "precision", "batch", "threads")
        if getattr(made_for, name) != getattr(chosen, name)
    ]
    if differing:
        raise BundleError(
            f"the bundle {subject} is for {'; '.join(differing)}",
            hint="leave these out, or bench the engine file inside the bundle on its own",
        )
    return chosen


def bench(subject: ModelLike | Path, *, target: Target, input_shape: Inputs | None = None) -> dict[str, Any]:
    """Measure an engine, a bundle or a model on a target.

    A bundle whose latency is only predicted is completed by it: the measurement and the device are
    written into its manifest.

    Args:
        subject: a bundle folder, an exported model, or (with ``input_shape``) a model, which is brought into the form
            that the target's runtime opens. ONNX is converted where the runtime takes something else.
        target: where to measure.
        input_shape: of a model, as in :func:`profile`.

    Raises:
        InputError: no such thing, or it cannot be opened.
        MeasurementError: the device was too busy.
    """
    target.check_reachable()
    if input_shape is not None:
        dense, example = _load(
            subject if isinstance(subject, nn.Module) else str(subject), input_shape, target, None, 0
        )
        return _bench_engine(engine_bytes(dense, example, target), target)
    path = Path(str(subject))
    if path.is_dir():
        return _bench_bundle(Bundle.load(path), target)
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="give a bundle folder or an .onnx file")
    return _bench_engine(engine_at(path, target), target)


def _bench_engine(engine: bytes | Path, target: Target) -> dict[str, Any]:
    return {"latency_ms": _brief(measure_one(engine, target).latency.to_dict()), "target": target.to_dict()}


def _bench_bundle(bundle: Bundle, target: Target) -> dict[str, Any]:
    measured = measure_one(bundle.engine, target).latency.to_dict()
    document: dict[str, Any] = {"latency_ms": _brief(measured), "target": target.to_dict()}
    budget = bundle.manifest.get("budget")
    if budget and budget["metric"] == "latency_ms":
        document["budget"] = budget["limit"]
        document["budget_met"] = measured["p50_ms"] <= budget["limit"]
    if not bundle.manifest["latency"].get("measured_ms") and not bundle.signed:
        bundle.complete(measured, device_at(target))
        document["completed"] = str(bundle.path)
    return document


def copy_bundle(run: Path, output: Path) -> dict[str, Any]:
    """Copy the bundle of a finished run, after checking that it is whole.

    Raises:
        InputError: the run is not finished, or the output exists.
        BundleError: the bundle was changed.
    """
    folder = RunFolder.load(run)
    if folder.document["status"] != "done":
        raise InputError(f"the run in {run} is not finished", hint="finish it with hwprune compress --resume")
    RunFolder.check_free(output)
    bundle = Bundle.load(run / "bundle")
    checks = verify(bundle.path, latency=False)
    if not checks["ok"]:
        raise BundleError(
            f"{bundle.path} fails its own checks: {checks['checks'][-1]['detail']}", hint="compress again"
        )
    with replacing_folder(output) as temporary:
        shutil.copytree(bundle.path, temporary, dirs_exist_ok=True)
    return {"bundle": str(output), **folder.document["result"]}


def report(run: Path, output: Path | None, form: Form = "html") -> tuple[Path, dict[str, Any]]:
    """Write the page about a finished run.

    Returns:
        the page, and the run's document.

    Raises:
        InputError: there is no finished run.
    """
    from hwprune.report import write_report

    folder = RunFolder.load(run.parent if run.name == "bundle" and not (run / "run.json").exists() else run)
    if folder.document["status"] != "done":
        raise InputError(f"the run in {run} is not finished", hint="finish it with hwprune compress --resume")
    return write_report(folder.path, output, form), folder.document


def _load(
    model: ModelLike, inputs: Inputs, target: Target, weights: Path | None, seed: int
) -> tuple[nn.Module, Example]:
    """The model in eval mode and an example input of the target's batch size."""
    for one in described(inputs):
        target.check_batch(one.shape)
    torch.manual_seed(seed)
    module = load_model(model)
    if weights is not None:
        load_weights(module, weights)
    return module.eval(), example_for(module, inputs, batch=target.batch, seed=seed)


def _brief(latency: dict[str, Any]) -> dict[str, Any]:
    """The keys that others rely on: ``p50``, ``p90``, ``repeats``."""
    return {
        "p50": latency["p50_ms"],
        "p90": latency["p90_ms"],
        "min": latency["min_ms"],
        "repeats": latency["repeats"],
        "clean": latency["clean"],
    }
