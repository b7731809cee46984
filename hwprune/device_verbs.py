"""What is done with a bundle on a device once all of it is checked: tell, infer, measure, verify.

Stands beside ``run.py``, which calls it with a ``device_bundle.Checked``; needs Python 3.8, numpy and the runtime.
Every verb returns a JSON-able document with ``ok``; ``<verb>_lines`` puts it into words.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune import device_runner
else:
    import device_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bundle = Any  # hwprune.device_bundle.Checked
    Check = tuple[str, bool, str]  # name, whether it holds, detail


def info(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is: ``checks`` and its ``manifest``."""
    return {"ok": True, "checks": _named(bundle.checks), "manifest": bundle.manifest}


def info_lines(document: Mapping[str, Any]) -> list[str]:
    """The manifest in short."""
    manifest = document["manifest"]
    engine, latency, prepared = manifest["engine"], manifest["latency"], manifest["preprocessing"]
    measured, accuracy = latency["measured_ms"], manifest.get("accuracy")
    found = {
        "engine": f"{engine['file']}, {manifest['files'][engine['file']]['bytes']} bytes, {engine['precision']}",
        "runtime": f"{engine['runtime']}, {engine['threads']} threads, for target {manifest['target'].get('name')}",
        **{f"input {port['name']}": f"{port['dtype']} {port['shape']}" for port in manifest["inputs"]},
        **{f"output {port['name']}": f"{port['dtype']} {port['shape']}" for port in manifest["outputs"]},
        "preprocessing": ", ".join(f"{key} {value}" for key, value in prepared.items() if key != "class_names"),
        "classes": ", ".join(map(str, prepared.get("class_names") or ())),
        "predicted": f"{latency['predicted_ms']:.4g} ms" if latency["predicted_ms"] is not None else "",
        "measured": f"{measured['p50_ms']:.4g} ms" if measured else "",
        "device": (manifest["device"] or {}).get("cpu"),
        "accuracy": ", ".join(f"{key} {value}" for key, value in accuracy.items()) if accuracy else "",
        "created": manifest.get("created"),
    }
    words = [f"{name}: {text}" for name, text in found.items() if text]
    return [*_check_lines(document["checks"]), *words]


def bench(bundle: Bundle, *, rounds: int = 20) -> dict[str, Any]:
    """Measure the latency on the golden inputs.

    Returns:
        ``latency_ms`` (one candidate of ``device_runner.measure``), ``contention``, ``rounds``, ``burst``, ``threads``,
        ``clock``, ``device`` (fingerprint), ``recorded_ms`` (the manifest's, or None) and ``differing`` (what makes
        this another device than the recorded one); or, not ``ok``, ``detail``: why no number is worth reporting.
    """
    with _told(bundle):
        engine, _, feeds = _opened(bundle)
        try:
            found = _measured(bundle, engine, feeds, rounds)
        except device_runner.MeasurementRefused as error:
            return {"ok": False, "detail": str(error)}
        recorded = bundle.manifest["latency"]["measured_ms"]
        device = device_runner.fingerprint(bundle.manifest["engine"]["runtime"])
        return {
            "ok": True,
            "latency_ms": found.pop("candidates")["engine"],
            **found,
            "device": device,
            "recorded_ms": recorded["p50_ms"] if recorded else None,
            "differing": device_runner.same_device(bundle.manifest["device"] or {}, device) if recorded else [],
        }


def bench_lines(document: Mapping[str, Any]) -> list[str]:
    """The median with its interval, what it rests on, and what was recorded."""
    if not document["ok"]:
        return [f"FAILED latency: {document['detail']}"]
    took, load = document["latency_ms"], document["contention"]
    lines = [
        f"{took['p50_ms']:.4g} ms (95 %: {took['low_ms']:.4g} to {took['high_ms']:.4g}), p90 {took['p90_ms']:.4g} ms",
        f"{took['clean']} of {took['repeats']} samples undisturbed ({load['clean_fraction']:.0%} of all), "
        f"{document['rounds']} rounds, {document['threads']} threads, clock {document['clock']}",
    ]
    if document["recorded_ms"] is not None:
        other = f", on another device ({', '.join(document['differing'])})" if document["differing"] else ""
        lines.append(f"recorded: {document['recorded_ms']:.4g} ms{other}")
    return lines


def infer(bundle: Bundle, sources: Sequence[str], *, output: Path | None = None) -> dict[str, Any]:
    """Run the engine on images or arrays.

    Args:
        bundle: whose ``preprocessing`` is followed.
        sources: pictures; ``.npy`` or ``.npz`` (its array ``x``, or the only one) of raw uint8 pixels, (H, W),
            (H, W, C), (N, H, W) or (N, H, W, C) with C 1 or 3; any other array as the network's input, (N, …), ready
            made. An ``.npz`` with an array for every input of the engine, by name, is taken as that.
        output: where to write all outputs, as ``output_0``…, (samples, …).

    Returns:
        ``results``: for every sample ``source`` and ``index`` in it, and where the first output is (N, classes)
        ``class``, ``name`` (if the manifest has names) and ``score`` (the softmax of that output; class and score are
        None where it is not finite); ``outputs``: name and shape of each; ``output``.

    Raises:
        BadInput: a file is none of these, or does not fit the engine.
    """
    np = importlib.import_module("numpy")
    if output is not None and output.resolve().parent == bundle.folder.resolve():
        raise device_runner.BadInput(f"{output} is inside the bundle, where nothing may be added; write it elsewhere")
    inputs, preprocessing = device_runner.sibling("device_input"), bundle.manifest["preprocessing"]
    with _told(bundle):
        engine = _opened(bundle)[0]
        taken = [inputs.samples(Path(source), engine.inputs, preprocessing) for source in sources]
        outputs = inputs.in_batches(engine, {name: np.concatenate([one[name] for one in taken]) for name in taken[0]})
    counts = [len(next(iter(one.values()))) for one in taken]
    results = [{"source": str(name), "index": i} for name, count in zip(sources, counts) for i in range(count)]
    if outputs[0].ndim == 2 and outputs[0].shape[1] > 1:
        for result, row in zip(results, outputs[0]):
            result.update(_classified(row, preprocessing.get("class_names")))
    if output is not None:
        with output.open("wb") as file:
            np.savez(file, **{f"output_{i}": one for i, one in enumerate(outputs)})
    shapes = [{"name": port["name"], "shape": list(one.shape)} for port, one in zip(engine.outputs, outputs)]
    return {"ok": True, "results": results, "outputs": shapes, "output": None if output is None else str(output)}


def infer_lines(document: Mapping[str, Any]) -> list[str]:
    """A line for every sample."""
    lines = []
    for one in document["results"]:
        name = f" {one['name']}" if one.get("name") is not None else ""
        if one.get("class") is None:
            found = "its outputs are not finite" if "class" in one else "done"
        else:
            found = f"class {one['class']}{name}, score {one['score']:.4f}"
        lines.append(f"{one['source']}[{one['index']}]: {found}")
    return [*lines, *([f"outputs: {document['output']}"] if document["output"] else [])]


def verify(bundle: Bundle, *, latency: bool = True, rounds: int = 20) -> dict[str, Any]:
    """The golden outputs, then the latency; see ``device_bundle.verify_bundle``."""
    checks, measured = list(bundle.checks), None
    with _told(bundle):
        engine, arrays, feeds = _opened(bundle)
        checks.append(_check_golden(engine, feeds, bundle.manifest["golden"], arrays))
        if latency and checks[-1][1]:
            try:
                measured = _measured(bundle, engine, feeds, rounds)["candidates"]["engine"]
                checks.append(_check_latency(bundle.manifest, measured["p50_ms"]))
            except device_runner.MeasurementRefused as error:
                checks.append(("latency", False, str(error)))
    return {"ok": all(check[1] for check in checks), "checks": _named(checks), "latency_ms": measured}


def verify_lines(document: Mapping[str, Any]) -> list[str]:
    """A line for every check."""
    return _check_lines(document["checks"])


@contextlib.contextmanager
def _told(bundle: Bundle) -> Iterator[None]:
    """Whatever a malformed bundle leads to, in words."""
    try:
        yield
    except (device_runner.BadInput, device_runner.MeasurementRefused, ImportError):
        raise
    except KeyError as error:
        reason = f"{bundle.folder}: the manifest or the golden file has no entry {error}"
        raise device_runner.BadInput(reason) from error
    except Exception as error:  # numpy, zipfile and the runtime each have their own
        reason = f"{bundle.folder} is not a readable bundle: {type(error).__name__}: {error}"
        raise device_runner.BadInput(reason) from error


def _opened(bundle: Bundle) -> tuple[Any, Any, dict[str, NDArray[Any]]]:
    """The engine, the golden arrays, and those of them that go in."""
    np = importlib.import_module("numpy")
    settings, golden = bundle.manifest["engine"], bundle.manifest["golden"]
    model = bundle.contents[settings["file"]]
    if settings["file"].endswith(".packed"):
        model = device_runner.sibling("device_storage").unpack(model, settings["unpacked_bytes"])
    chosen = {key: settings[key] for key in ("runtime", "threads", "precision")}
    engine = device_runner.open_engine(model, **chosen)
    arrays = np.load(io.BytesIO(bundle.contents[golden["file"]]), allow_pickle=False)
    return engine, arrays, {port["name"]: arrays[golden["inputs"][port["name"]]] for port in engine.inputs}


def _measured(bundle: Bundle, engine: Any, feeds: Mapping[str, NDArray[Any]], rounds: int) -> dict[str, Any]:
    evidence = {"threads": bundle.manifest["engine"]["threads"], "cpu_time": engine.cpu_time}
    return device_runner.measure({"engine": engine.bind(feeds)}, rounds=rounds, **evidence)


def _check_golden(engine: Any, feeds: Any, golden: Any, arrays: Any) -> Check:
    np = importlib.import_module("numpy")
    errors = []
    for index, output in enumerate(engine.run(feeds)):
        name = engine.outputs[index]["name"]
        expected = arrays[golden["outputs"][name]].astype(np.float64)
        if expected.shape != output.shape:
            return "golden", False, f"output {name} has shape {output.shape}, expected {expected.shape}"
        errors.append(np.linalg.norm(output - expected) / max(float(np.linalg.norm(expected)), 1e-300))
    worst, limit = float(np.max(errors)), float(golden["relative_l2"])  # np.max keeps a NaN, and a NaN fails
    return "golden", worst <= limit, f"relative L2 error {worst:.2e}, at most {limit:.2e}"


def _check_latency(manifest: Mapping[str, Any], p50_ms: float) -> Check:
    recorded = manifest["latency"]
    if not recorded["measured_ms"]:
        return "latency", True, f"{p50_ms:.4g} ms measured; none recorded to compare with"
    here = device_runner.fingerprint(manifest["engine"]["runtime"])
    differing = device_runner.same_device(manifest["device"] or {}, here)
    if differing:
        return "latency", True, f"{p50_ms:.4g} ms; not compared: another device ({', '.join(differing)})"
    limit = recorded["measured_ms"]["p50_ms"] * (1 + recorded["tolerance"])
    return "latency", p50_ms <= limit, f"{p50_ms:.4g} ms measured, at most {limit:.4g} ms"


def _classified(row: NDArray[Any], names: Any) -> dict[str, Any]:
    np = importlib.import_module("numpy")
    logits = row.astype(np.float64)
    if not np.isfinite(logits).all():
        return {"class": None, "score": None}
    found, likely = int(np.argmax(logits)), np.exp(logits - np.max(logits))
    named = isinstance(names, list) and found < len(names)
    return {
        "class": found,
        **({"name": str(names[found])} if named else {}),
        "score": float(likely[found] / likely.sum()),
    }


def _named(checks: Sequence[Check]) -> list[dict[str, Any]]:
    return [{"name": name, "ok": ok, "detail": detail} for name, ok, detail in checks]


def _check_lines(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{'ok' if check['ok'] else 'FAILED':6} {check['name']}: {check['detail']}" for check in checks]
