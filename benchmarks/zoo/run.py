"""Many architectures, each traced, cut in half at random and exported (``one.py``); Torch-Pruning beside it.

    pip install --no-deps torchvision timm transformers tokenizers regex huggingface_hub
    python benchmarks/zoo/run.py --results RESULTS.json [--only timm:levit_128s ...] [--jobs 2] [--report RESULT.md]

The architectures are those of ``architectures.txt``: a name and the shape of an input per line. Each runs in a process
of its own with a time limit. Results are added one at a time, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
LIMIT_S = 180.0
PEER_LIMIT_S = 60.0
WHOLE = 0.95  # share that can be reached, from which nothing is remarked on


def architectures() -> list[tuple[str, str]]:
    """Name and input shape of each."""
    lines = [line.split() for line in (HERE / "architectures.txt").read_text().splitlines()]
    return [(line[0], line[1]) for line in lines if line]


def answer(script: str, name: str, shape: str, limit_s: float) -> dict[str, Any]:
    """What a script of this folder prints; its last words if it does not."""
    command = [sys.executable, "-W", "ignore", str(HERE / script), name, shape]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env={**os.environ, **THREADS})
    except subprocess.TimeoutExpired:
        return {"model": name, "passed": False, "stage": "?", "reason": f"not done after {limit_s:g} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        said = (done.stderr.splitlines() or [""])[-1][:200]
        return {"model": name, "passed": False, "stage": "?", "reason": f"exit status {done.returncode}: {said}"}
    return found


THREADS = {"OMP_NUM_THREADS": "1"}


def both(name: str, shape: str) -> dict[str, Any]:
    """Ours, with Torch-Pruning's under ``peer``."""
    return {**answer("one.py", name, shape, LIMIT_S), "peer": answer("peer.py", name, shape, PEER_LIMIT_S)}


def report(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    passed = [one for one in results if one["passed"]]
    peers = [one for one in results if one["peer"]["passed"]]
    whole = [one for one in passed if min(one["parameters"], one["macs"]) >= WHOLE]
    seconds = median(one["trace_s"] for one in passed)
    lines = [
        f"{len(passed)} of {len(results)} pass ({len(passed) / len(results):.0%}); Torch-Pruning prunes {len(peers)} "
        f"({len(peers) / len(results):.0%}).",
        f"In {len(whole)} of those that pass, {WHOLE:.0%} of parameters and of multiply-accumulates can be reached.",
        f"Tracing took a median of {seconds:.1f} s.",
        "",
        "| model | groups | blocks | reachable parameters | reachable MACs | kept | cut = masked | export "
        "| trace (forward) | Torch-Pruning keeps | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(results, key=lambda one: one["model"]):
        lines.append(
            f"| {one['model']} | {one.get('groups', '')} | {one.get('blocks', '')} "
            f"| {_percent(one, 'parameters')} | {_percent(one, 'macs')} "
            f"| {_percent(one, 'kept')} | {_small(one, 'error')} | {_small(one, 'export_error')} "
            f"| {one.get('trace_s', 0):.1f} s ({one.get('forward_s', 0):.2f} s) "
            f"| {_percent(one['peer'], 'kept') if one['peer']['passed'] else 'fails'} "
            f"| {_remark(one).replace('|', '/')} |"
        )
    return "\n".join(lines)


def _remark(one: dict[str, Any]) -> str:
    """Where it failed; or of what stays whole beside input and output, the most frequent reasons."""
    if not one["passed"]:
        return f"{one['stage']}: {one.get('reason', '')}"
    if min(one["parameters"], one["macs"]) >= WHOLE:
        return ""
    others = [why for why in one["frozen"] if "network's input" not in why and why != "the model's output"]
    return "; ".join(others[:2]) or "what it returns is its embedding"


def _percent(one: dict[str, Any], key: str) -> str:
    return f"{100 * one[key]:.0f} %" if key in one else ""


def _small(one: dict[str, Any], key: str) -> str:
    return f"{one[key]:.1e}" if key in one else ""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names; done again if they are done")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(argv)
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    if options.only:
        results = [one for one in results if one["model"] not in options.only]
    done = {one["model"] for one in results}
    waiting = [(n, s) for n, s in architectures() if n not in done and (not options.only or n in options.only)]
    with ThreadPoolExecutor(options.jobs) as pool:
        for future in as_completed([pool.submit(both, name, shape) for name, shape in waiting]):
            results.append(future.result())
            options.results.write_text(json.dumps(results, indent=1))
            one = results[-1]
            print(f"{len(results)} {one['model']}: {one['stage']} {one.get('reason', '')}", flush=True)
    if options.report:
        options.report.write_text(report(results) + "\n")


if __name__ == "__main__":
    main()
