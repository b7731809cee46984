"""From a model to a bundle: exported in the precision that pays, held against the model, measured, written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwprune.deploy.bundle import Bundle
from hwprune.deploy.forms import Asked, Choice, Form, Source, choose, forms_of, parse_precisions
from hwprune.deploy.latency import Latency, measure_one
from hwprune.deploy.packing import pack, unpack
from hwprune.deploy.storage import Storage
from hwprune.deploy.writing import check_storable, write_bundle
from hwprune.errors import InputError
from hwprune.targets import Target
from hwprune.targets.connection import device_at


def release(
    source: Source, target: Target, asked: Asked, output: Path, *, storage: Storage | None = None
) -> tuple[Bundle | None, dict[str, Any]]:
    """Write a bundle of the fastest precision that passes, of those that were asked for, or none if none passes.

    Args:
        source: the model, and what it is judged on.
        target: a device at hand; its precision is delivered if no other is asked for.
        asked: precisions and gates.
        output: the bundle's folder.
        storage: form of the engine's file; of a single precision.

    Returns:
        The bundle, and a JSON-able document: ``latency_ms`` (``Latency.to_dict()``), ``precision``, ``precisions`` (one
        record each, with why it was not delivered), ``gates`` and ``passed``.

    Raises:
        InputError: a precision that there is not, int8 or a gate without data, a storage for several precisions or for
            another format than ONNX.
        ParityError: the export itself is wrong.
        MeasurementError: the device was too busy.
    """
    precisions = parse_precisions(asked.precision or target.precision, target)
    if storage is not None and len(precisions) > 1:
        raise InputError(
            f"storage {storage} was asked for with {len(precisions)} precisions", hint="give one --precision"
        )
    if storage is not None:
        check_storable(storage, replace(target, precision=precisions[0]))
    forms = forms_of(source, target, precisions, asked)
    choice = choose(forms, precisions, target, force=asked.force)
    facts = choice.facts(forms)
    document = {
        "precision": choice.form.precision if choice.form else None,
        "precisions": facts,
        "gates": asked.gates.to_dict(),
        "passed": choice.form is not None and choice.form.refused is None,
    }
    if choice.form is None:
        return None, {**document, "latency_ms": None}
    latency, bundle = _written(source, choice.form, choice, facts, output, storage)
    return bundle, {**document, "latency_ms": latency.to_dict()}


def _written(
    source: Source, form: Form, choice: Choice, facts: Sequence[dict[str, Any]], output: Path, storage: Storage | None
) -> tuple[Latency, Bundle]:
    assert form.content is not None, "no form without an engine is chosen"
    latency = choice.measured.latency[form.precision]
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / "engine"
        engine.write_bytes(form.content)
        if storage is not None:
            latency = measure_one(unpack(pack(engine, storage)), form.target).latency
        bundle = write_bundle(
            output,
            engine=engine,
            model=source.model,
            example=next(source.inputs(form.target.batch)),
            target=form.target,
            manifest=_manifest(form, latency, facts, storage) | {"preprocessing": _preprocessing(source)},
            storage=storage,
        )
    return latency, bundle


def _manifest(form: Form, latency: Latency, facts: Sequence[dict[str, Any]], storage: Storage | None) -> dict[str, Any]:
    """What is known of an engine; of one that is stored rounded, the bundle finds its parity itself."""
    rounded = storage is not None and storage.precision != "fp32"
    return {
        "measured_latency": latency.to_dict(),
        "device": device_at(form.target),
        "accuracy": form.degradation.to_dict() if form.degradation and not rounded else None,
        "parity": form.parity.to_dict() if form.parity and not rounded else None,
        "precision": {"chosen": form.precision, "forms": list(facts)},
    }


def _preprocessing(source: Source) -> dict[str, Any]:
    return source.data.preprocessing if source.data is not None else {}
