"""The joint solver: right on small problems, quick on large ones, and what it keeps that HALP's knapsack does not.

Small problems of every shape are compared with all their solutions. Then networks of the zoo are priced, by their
latency table where one was measured (``latency_tables/*/NAME/onnxruntime-fp32.json``), else by multiply-accumulates
with a fixed part and 5 % of noise per entry; saliencies are drawn (log-normal). At each share of the dense latency the
joint solver stands beside HALP's knapsack as it is published (costs separable at the widths before each of 1 or 30
steps, the budget believed, not checked), HALP with our additions (:mod:`hwprune.budget.halp`), and the baselines.

    pip install --no-deps torchvision
    python benchmarks/solver.py [--brute 5000] [--only resnet50 ...] [--output RESULT.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from hwprune.budget import (
    Plan,
    Problem,
    geometric,
    separable,
    solve,
    solve_global,
    solve_halp,
    solve_mckp,
    solve_uniform,
    write_problem,
)
from hwprune.errors import InfeasibleError
from hwprune.latency import LatencyTable
from hwprune.network import trace
from hwprune.pruning import Pricing, price

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from latency_prediction import build  # noqa: E402

from tests.budget.random_problems import fits, random_problem, solutions  # noqa: E402

NETWORKS = (  # name, channel step, shares of the dense latency
    ("resnet50", 16, (0.8, 0.55, 0.3, 0.15)), ("resnet50", 8, (0.55, 0.3)), ("mobilenet_v2", 16, (0.55, 0.3)),
    ("efficientnet_b0", 16, (0.55, 0.3)), ("resnet101", 16, (0.55, 0.3)), ("densenet121", 16, (0.55, 0.3)),
    ("googlenet", 16, (0.55, 0.3)), ("inception_v3", 16, (0.55, 0.3)), ("vit_b_16", 16, (0.55, 0.3)),
)  # fmt: skip
BINS = 50_000
ALONE = """
import re, sys
from hwprune.cli import main
assert main(["solve", sys.argv[1], "--json"]) == 0
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""  # a process of its own, which says how much memory it had at most, in KiB


def brute(count: int) -> str:
    """How often the solver is wrong about a small problem."""
    wrong, infeasible, took, worst = 0, 0, 0.0, 0.0
    for seed in range(count):
        problem = random_problem(np.random.default_rng(seed))
        inside = [problem.objective(widths) for widths in solutions(problem) if fits(problem, widths)]
        begin = time.perf_counter()
        try:
            plan = solve(problem)
        except InfeasibleError:
            infeasible += 1
            wrong += bool(inside)
            continue
        finally:
            took += time.perf_counter() - begin
        best = max(inside, default=-np.inf)
        assert plan.bound is not None
        lies = plan.bound < best - 1e-9 * abs(best) or not fits(problem, plan.widths)
        wrong += lies or best - plan.objective > 1e-4 * abs(plan.bound) + 1e-9
        worst = max(worst, (best - plan.objective) / max(abs(best), 1e-9))
    return (
        f"{count} small random problems against all their solutions: {wrong} wrong answers, bounds or claims; "
        f"{infeasible} without a solution, each said so; at most {worst:.2g} below the optimum; "
        f"{1e3 * took / count:.0f} ms each."
    )


def priced(name: str, step: int) -> Pricing:
    """Latency over all widths of a network."""
    network = trace(build(f"torchvision:{name}"), torch.zeros(1, 3, 224, 224), verify=False)
    measured = sorted(HERE.parent.glob(f"latency_tables/*/{name}/onnxruntime-fp32.json"))
    if measured and LatencyTable.load(measured[0]).channel_step == step:
        return price(network, "latency_ms", table=LatencyTable.load(measured[0]))
    rng, costs = np.random.default_rng(0), []
    pricing = price(network, "macs", step=step)
    for cost in pricing.costs:
        work = cost.table / 1e8 * (1 + 0.05 * rng.standard_normal(cost.table.shape))
        costs.append(
            dataclasses.replace(cost, budget="latency_ms", table=work + 0.02 * rng.random() * work.max() + 0.002)
        )
    return dataclasses.replace(pricing, metric="latency_ms", costs=tuple(costs))


def published_halp(problem: Problem, steps: int) -> Plan:
    """HALP's knapsack without anything added: what it believes to be inside the budget."""
    ((budget, limit),) = problem.budgets.items()
    at, begin = problem.widest, time.perf_counter()
    for target in geometric(problem.evaluate(at)[budget], limit, steps):
        within = problem.up_to(at)
        charged, constant = separable(within, budget, at)
        unit = target / BINS
        weights = [np.ceil(cost / unit).astype(np.int64) for cost in charged.values()]
        picks = solve_mckp(
            [np.asarray(c.saliency) for c in within.groups.values()], weights, int((target - constant) / unit)
        )
        if picks is None:
            break
        at = {name: c.widths[i] for (name, c), i in zip(within.groups.items(), picks, strict=True)}
    used = problem.evaluate(at)
    return Plan(widths=at, objective=problem.objective(at), used=used, solve_s=time.perf_counter() - begin)


SOLVERS: Mapping[str, Callable[[Problem], Plan]] = {
    "joint": solve,
    "HALP, 1 step": lambda problem: published_halp(problem, 1),
    "HALP, 30 steps": lambda problem: published_halp(problem, 30),
    "HALP with our additions": solve_halp,
    "uniform": solve_uniform,
    "global threshold": solve_global,
}


def rows(name: str, step: int, shares: tuple[float, ...]) -> Iterator[str]:
    """One line per share of the dense latency and solver."""
    pricing, rng = priced(name, step), np.random.default_rng(1)
    scores = {g: rng.lognormal(0, 1.5, widths[-1]) * rng.lognormal(0, 0.7) for g, widths in pricing.widths.items()}
    problem = pricing.problem(scores, {g: list(range(widths[-1])) for g, widths in pricing.widths.items()}, 1.0)
    dense, whole = problem.evaluate(problem.widest)["latency_ms"], problem.objective(problem.widest)
    widths = sum(len(choices.widths) for choices in problem.groups.values())
    what = f"{name}, step {step}: {len(problem.groups)} groups, {widths} widths"
    for share, (solver, function) in itertools.product(shares, SOLVERS.items()):
        limited = dataclasses.replace(problem, budgets={"latency_ms": share * dense})
        try:
            plan = function(limited)
        except InfeasibleError:
            yield f"| {what} | {share:.0%} | {solver} | – | – | – | – |"
            continue
        gap = "" if plan.relative_gap is None else f"{100 * plan.relative_gap:.4f} %"
        yield (
            f"| {what} | {share:.0%} | {solver} "
            f"| {100 * plan.objective / whole:.2f} % | {100 * plan.used['latency_ms'] / (share * dense):.1f} % "
            f"| {gap} | {plan.solve_s:.2f} s |"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.json"
        path.write_text(write_problem(dataclasses.replace(problem, budgets={"latency_ms": min(shares) * dense})))
        done = subprocess.run([sys.executable, "-c", ALONE, str(path)], check=True, capture_output=True, text=True)
        yield f"| {what} | {min(shares):.0%} | `hwprune solve`: {int(done.stdout.split()[-1]) / 1024:.0f} MB | | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brute", type=int, default=5000)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    lines = [brute(options.brute), ""] if options.brute else []
    lines += [
        "| problem | budget | solver | saliency kept | budget used | gap | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, step, shares in NETWORKS:
        if not options.only or name in options.only:
            for line in rows(name, step, shares):
                print(line, flush=True)
                lines.append(line)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
