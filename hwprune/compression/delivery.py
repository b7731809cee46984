"""The end of the road: the delivered engine measured against the dense one, the bundle, the report."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from hwprune.budget import Budget
from hwprune.compression.folder import RunFolder
from hwprune.compression.job import Job
from hwprune.compression.settle import Window
from hwprune.compression.sparse import exported_file
from hwprune.compression.sparse_settings import NOTHING
from hwprune.compression.stages import caps, finetuned
from hwprune.deploy import measure_pair, write_bundle
from hwprune.footprint import footprint
from hwprune.latency import LatencyTable, predict
from hwprune.network.forward import Example
from hwprune.targets.connection import device_at
from hwprune.training import save_weights

WINDOW = Window()
USED_UP = 0.97  # of a file budget; less is worth a remark
ROUNDING = 1e-9  # of a share
PACKAGES = ("hwprune", "torch", "onnx", "onnxruntime", "onnxscript", "numpy")


def measure_delivery(job: Job, run: RunFolder) -> dict[str, Any]:
    """Measure the delivered engine and the dense one in interleaved rounds, and hold it against the budget."""
    metric = job.budget.metric if job.cuts else None
    record: dict[str, Any] = {"pair": None, "value": None, "limit": run.stage("reach")["limit"] if job.cuts else None}
    if job.measurable:
        for rounds in (20, 50):  # what falls outside the window is measured again, longer, and that counts
            pair = measure_pair(run.path / "baseline.onnx", run.path / "model.onnx", job.target, rounds=rounds)
            record["pair"] = pair.to_dict()
            if metric != "latency_ms":
                break
            record["value"] = pair.candidate.p50_ms
            record["limit"] = job.budget.resolve(pair.baseline.p50_ms)
            if WINDOW.holds(record["value"] / record["limit"]):
                break
    if metric is not None and metric != "latency_ms":
        record["value"] = _counted(job, run, metric)
    return record


def _counted(job: Job, run: RunFolder, metric: str) -> float | None:
    """Size, memory or operations of the exported network."""
    value = job.network.macs_at(_widths(job, run)) if metric == "macs" else run.stage("artifact")[metric]
    return None if value is None else float(value)


def _budgets(job: Job, run: RunFolder) -> list[dict[str, Any]]:
    """The budgets that channels were cut for, the one that is used up first, each held against what was exported."""
    if not job.cuts:
        return []
    measured = run.stage("measured")
    found = [_held(job.budget, measured["limit"], measured["value"])]
    for budget, (metric, limit) in zip(job.config.budgets[1:], caps(job, run).items(), strict=True):
        found.append(_held(budget, limit, _counted(job, run, metric)))
    return found


def _file_budget(job: Job, run: RunFolder) -> list[dict[str, Any]]:
    """The budget that zeros were to meet, held against the stored file; none if there is none."""
    budget = job.config.file_budget
    if budget is None:
        return []
    return [_held(budget, run.stage("finetune")["sparse"]["limit"], run.stage("artifact")["stored_bytes"])]


def _held(budget: Budget, limit: float, value: float | None) -> dict[str, Any]:
    met = None if value is None else value <= limit
    return {"metric": budget.metric, "requested": str(budget), "limit": limit, "measured": value, "met": met}


def _sparse(job: Job, run: RunFolder) -> dict[str, Any] | None:
    """What became of single weights; None if nothing was to."""
    if job.config.sparsify == NOTHING:
        return None
    stored = {name: run.stage("artifact")[name] for name in ("storage", "stored_bytes", "dense_stored_bytes")}
    found, asked = run.stage("finetune")["sparse"], job.config.density
    met = asked is None or found["sparsity"] >= 1 - asked - ROUNDING
    used = stored["stored_bytes"] / found["limit"] if found["limit"] else 1.0
    remark = f"The stored file takes {used:.1%} of its budget." if used < USED_UP else None
    request = {"rule": job.config.sparsify, "requested": job.config.sparse_request, "met": met}
    return {**request, **found, **stored, "remark": remark}


def deliver(job: Job, run: RunFolder) -> None:
    """Write weights, bundle, result and report."""
    model = finetuned(job, run)
    save_weights(run.path / "model.safetensors", model)
    result = _result(job, run)
    if not (run.path / "bundle").exists():
        write_bundle(
            run.path / "bundle",
            engine=run.path / "model.onnx" if job.config.sparsify == NOTHING else exported_file(run),
            model=model,
            example=_golden(job),
            target=job.target,
            manifest=_manifest(job, run, result),
            storage=None if job.config.sparsify == NOTHING else job.config.stored_as,
        )
    run.document["result"] = result
    run.document["versions"] = versions()
    run.document["device"] = device_at(job.target) if job.measurable else None
    run.document["groups"] = _groups(job, run)
    run.document["layers"] = _layers(job, run)
    run.save()
    from hwprune.report import write_report

    write_report(run.path)


def versions() -> dict[str, str]:
    """Versions of what took part."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def _golden(job: Job) -> Example:
    return next(job.validation_inputs(job.target.batch))


def _widths(job: Job, run: RunFolder) -> dict[str, int]:
    """Of every group, those that are not cut included."""
    return {**job.network.dense_widths, **run.plan().widths}


def _removed_blocks(job: Job, run: RunFolder) -> list[str]:
    return [block.name for block in job.network.removed(run.plan().kept)]


def _result(job: Job, run: RunFolder) -> dict[str, Any]:
    dense, settled = run.stage("baseline"), run.stage("settle")
    done, pair, sparse = run.stage("artifact"), run.stage("measured")["pair"], _sparse(job, run)
    promise = _promise(job, run, sparse)
    return {
        **promise,
        "predicted_latency_ms": promise["predicted"] if promise["budget_metric"] == "latency_ms" else None,
        "measured_latency_ms": pair["candidate"]["p50_ms"] if pair else None,
        "baseline_latency_ms": pair["baseline"]["p50_ms"] if pair else None,
        "latency_ratio": [pair["ratio"], pair["ratio_low"], pair["ratio_high"]] if pair else None,
        "measured_latency": pair["candidate"] if pair else None,
        "baseline_latency": pair["baseline"] if pair else None,
        "metric": job.task.metric,
        "accuracy": done["accuracy"],
        "accuracy_of": done["accuracy_of"],
        "degradation": done["degradation"],
        "gates": done["gates"],
        "precision": done["precision"],
        "baseline_accuracy": dense["accuracy"],
        "size_bytes": done["size_bytes"],
        "baseline_size_bytes": dense["size_bytes"],
        **_memory(job, run),
        "parameters": run.stage("finetune")["parameters"],
        "baseline_parameters": dense["parameters"],
        "macs": job.network.macs_at(_widths(job, run)),
        "baseline_macs": dense["macs"],
        "blocks": len(job.network.blocks),
        "removed_blocks": _removed_blocks(job, run),
        "sparse": sparse,
        "parity": done["parity"],
        "cut_error": run.stage("finetune")["cut_error"],
        "trials": len(settled["trials"]),
        "attempts": int(run.document.get("attempt", 0)) + 1,
        "bundle": str(run.path / "bundle"),
    }


def _promise(job: Job, run: RunFolder, sparse: dict[str, Any] | None) -> dict[str, Any]:
    """What was asked for, and whether it is so: of several budgets the first by itself, the others in a list."""
    asked = [*_budgets(job, run), *_file_budget(job, run)]
    first = asked[0] if asked else {"metric": None, "requested": None, "limit": None, "measured": None}
    known = all(one["met"] is not None for one in asked)
    value, limit = first["measured"], first["limit"]
    return {
        "budget": limit,
        "budget_metric": first["metric"],
        "budget_requested": first["requested"],
        "predicted": _predicted(job, run),
        "measured": value,
        "budget_met": all(one["met"] for one in (*asked, *([sparse] if sparse else []))) if known else None,
        "budget_used": None if value is None else value / limit,
        "other_budgets": asked[1:],
        "evidence": "predicted" if asked and value is None else "measured",
    }


def _predicted(job: Job, run: RunFolder) -> float | None:
    """What was predicted of the first budget, at the speed of the final rounds."""
    predicted, measured = run.stage("settle")["predicted"], run.stage("measured")
    if job.cuts and job.budget.metric == "latency_ms" and measured["pair"] is not None and job.budget.relative:
        predicted *= measured["limit"] / run.stage("reach")["limit"]
    return None if predicted is None else float(predicted)


def _memory(job: Job, run: RunFolder) -> dict[str, Any]:
    alone = job.config.weights_in_flash
    taken = footprint(job.network, job.runtime, job.target.precision, _widths(job, run))
    return {
        "memory_of": "activations" if alone else "weights and activations",
        "predicted_memory_bytes": taken.activation_bytes if alone else taken.memory_bytes,
        "measured_memory_bytes": run.stage("artifact")["memory_bytes"],
        "baseline_memory_bytes": run.stage("baseline")["memory_bytes"],
    }


def _manifest(job: Job, run: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    asked = {"metric": result["budget_metric"], "requested": result["budget_requested"], "limit": result["budget"]}
    return {
        "budget": asked if result["budget_metric"] else None,
        "predicted_latency_ms": result["predicted_latency_ms"],
        "measured_latency": result["measured_latency"],
        "baseline_latency": result["baseline_latency"],
        "accuracy": {
            "metric": result["metric"],
            "source": run.stage("artifact")["source_accuracy"],
            "artifact": result["accuracy"],
            "dense": result["baseline_accuracy"],
            "degradation": result["degradation"],
            "gates": result["gates"],
        },
        "precision": result["precision"],
        "parity": result["parity"],
        "preprocessing": job.data.preprocessing,
        "device": device_at(job.target) if job.measurable else None,
        "versions": versions(),
    }


def _groups(job: Job, run: RunFolder) -> list[dict[str, Any]]:
    widths = _widths(job, run)
    return [
        {
            "name": group.name,
            "channels": group.channels,
            "kept": widths[group.name],
            "frozen": group.frozen,
        }
        for group in job.network.groups
    ]


def _layers(job: Job, run: RunFolder) -> list[dict[str, Any]]:
    """Predicted latency of every layer before and after, by the table."""
    table = LatencyTable.load(run.path / "table.json") if (run.path / "table.json").exists() else None
    if table is None:
        return []
    before = predict(job.network.layers, table, job.network.dense_widths).per_layer
    after = predict(job.network.layers, table, _widths(job, run)).per_layer
    return [
        {"name": b.name, "before_ms": b.latency_ms, "after_ms": a.latency_ms, "source": a.source}
        for b, a in zip(before, after, strict=True)
    ]
