"""What other processes do to a latency table that is measured beside them.

Profiles a model on an otherwise idle machine, then again while processes that do nothing but multiply matrices run: one
per processor, one in all, and one per processor that rests half of the time. Every table predicts the same random
prunings; given is how far the predictions move, or what hwprune refused with.

    python benchmarks/profiling_under_load.py [--model FILE.py:factory] [--target NAME] [--output RESULT.md]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hwprune.deploy.profiling import profile_model
from hwprune.errors import MeasurementError
from hwprune.latency import LatencyTable, allowed_widths, predict
from hwprune.network import Network, load_model, trace
from hwprune.targets import Target, load_target

MODEL = f"{Path(__file__).parent / 'models' / 'mobilenetv2.py'}:build"
PRUNINGS, SIZE = 20, 192
SLICE_S = 0.02  # of work, then of rest


def busy(share: float) -> None:
    """Keep a processor busy for a share of the time, until this process is ended."""
    torch.set_num_threads(1)
    matrix = torch.rand(SIZE, SIZE)
    while True:
        end = time.perf_counter() + SLICE_S * share
        while time.perf_counter() < end:
            torch.mm(matrix, matrix)
        time.sleep(SLICE_S * (1 - share))


@contextlib.contextmanager
def loaded(processes: int, share: float) -> Iterator[None]:
    """Busy processes, from here to the end of the block."""
    started = [multiprocessing.Process(target=busy, args=(share,), daemon=True) for _ in range(processes)]
    for one in started:
        one.start()
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.join()


def predictions(network: Network, table: LatencyTable) -> np.ndarray:
    """Latencies of the dense network and of random prunings."""
    rng, found = random.Random(0), [predict(network.layers, table, network.dense_widths).latency_ms]
    for _ in range(PRUNINGS):
        widths = {group.name: rng.choice(allowed_widths(group.channels, 16)) for group in network.cuttable}
        found.append(predict(network.layers, table, {**network.dense_widths, **widths}).latency_ms)
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--target", default="local-onnxruntime")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    target: Target = load_target(options.target)
    model, example = load_model(options.model).eval(), torch.zeros(1, 3, 224, 224)
    network, processors = trace(model, example), os.cpu_count() or 1
    cases = [("nothing", 0, 0.0), ("nothing, again", 0, 0.0), (f"{processors} processes", processors, 1.0)]
    cases += [("1 process", 1, 1.0), (f"{processors} processes, half of the time", processors, 0.5)]
    lines = [
        "| beside it | others kept busy (CPUs) | predictions, against the first table | seconds |",
        "|---|---|---|---|",
    ]
    quiet: np.ndarray | None = None
    for name, processes, share in cases:
        begin = time.perf_counter()
        with loaded(processes, share):
            try:
                table = profile_model(model, example, network, target)
            except MeasurementError as error:
                busy_cpus, outcome = "", f"refused: {error}"
            else:
                found, busy_cpus = predictions(network, table), str(table.protocol["other_cpus"])
                quiet = found if quiet is None else quiet
                change = 100 * (found / quiet - 1)
                outcome = f"{np.median(change):+.1f} % in the median, {min(change):+.1f} to {max(change):+.1f} %"
        lines.append(f"| {name} | {busy_cpus} | {outcome} | {time.perf_counter() - begin:.0f} |")
        print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
