"""Stands in for the worker on a device: answers with made-up numbers, and logs beside the device's folder.

What it does with a visit stands in its id: ``wait`` until a file named ``gate`` is there, ``crash`` or ``refuse``.
"""

import json
import os
import sys
import time
from pathlib import Path

FINGERPRINT = {
    "cpu": "made up",
    "isa": ["none"],
    "machine": "fake",
    "runtime": "onnxruntime",
    "runtime_version": "1.2.3",
}


def reply(request):
    """A reply that fits the request; the same each time."""
    if "refuse" in request["id"]:
        return {"id": request["id"], "error": {"kind": "refused", "message": "the device is too busy"}}
    names = ["null", "anchor", *request["models"], *(f"{name}+kernels" for name in request["instrumented"])]
    return {
        "id": request["id"],
        "candidates": {name: statistics(index, request) for index, name in enumerate(names)},
        "kernels": {name: [kernel(0), kernel(1)] for name in request["instrumented"]},
        "clock": "perf_counter_ns",
        "contention": {
            "clean_fraction": 0.9,
            "psi_some_avg10": 0.5,
            "load1": 1.25,
            "other_cpus": None,
            "involuntary_switches": 3,
        },
    }


def statistics(index, request):
    rounds, samples = request["rounds"], request["burst"] - 1
    times = [0.5 * (index + 1) + 0.001 * number for number in range(rounds)]
    return {
        "p50_ms": times[rounds // 2],
        "low_ms": times[0],
        "high_ms": times[-1],
        "p90_ms": times[-1],
        "min_ms": times[0],
        "iqr_ms": 0.002,
        "cpu_p50_ms": times[rounds // 2],
        "repeats": rounds * samples,
        "clean": rounds * samples,
        "calls_per_sample": 1,
        "rounds_ms": times,
    }


def kernel(index):
    return {"covers": [f"node{index}"], "op": "Conv", "p50_ms": 0.2, "iqr_ms": 0.01, "repeats": 20}


def main(folder):
    outside = folder.parent.parent
    job = json.loads((folder / "job.json").read_text())
    results = folder / "results.jsonl"
    done = results.read_text().count("\n") if results.exists() else 0
    with results.open("a") as file, (outside / "log").open("a") as log:

        def write(document):
            file.write(json.dumps(document) + "\n")
            file.flush()
            print(json.dumps(document), flush=True)

        log.write(f"worker with {done} lines of results, {sorted(os.listdir(folder))}\n")
        if not done:
            write({"fingerprint": FINGERPRINT, "schema_version": 1})
        for request in job["visits"][max(0, done - 1) :]:
            log.write(f"visit {request['id'].split('#')[0]}\n")
            log.flush()
            if "crash" in request["id"]:
                print("out of luck", file=sys.stderr, flush=True)
                os.abort()
            while "wait" in request["id"] and not (outside / "gate").exists():
                time.sleep(0.02)
            write(reply(request))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
