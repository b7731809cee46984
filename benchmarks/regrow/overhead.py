"""What masks over single weights cost a training, for every rule at its default intervals.

Trains a ResNet-20 for CIFAR on random data. Around the middle of a training, every kind of step that a rule makes
(holding weights at zero, updating masks, exploring) is timed several times, in the order in which a loop makes them,
and added up over one period of the rule. Times are CPU times of one thread, which other work on the machine disturbs
less than wall time. Prints a Markdown table.

    python benchmarks/regrow/overhead.py [--steps N] [--batch-size N] [--rounds N] [--output RESULT.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import hwprune
from hwprune.device_facts import identity
from hwprune.network.zoo import ResNet
from hwprune.regrow import NM, GraNet, Rule, SparsePruner, rules

SAMPLES = 3  # steps of one kind in a row that are timed


@dataclass(frozen=True)
class Cost:
    """One rule, over one of its periods.

    Attributes:
        period: steps.
        hold: median of a step that only holds weights at zero, in milliseconds.
        update: median of a step with an update of the masks, in milliseconds; None if there is none.
        exploring: of a step at which more than the masks' weights hold values, in milliseconds; None if there is none.
        updates: share of training time that updates take.
        all: share of training time that the pruner takes.
    """

    period: int
    hold: float
    update: float | None
    exploring: float | None
    updates: float
    all: float


class Training:
    """A ResNet-20, random images, SGD with momentum."""

    def __init__(self, batch_size: int) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = ResNet(in_channels=3, classes=10, widths=(16, 32, 64), blocks=3)
        settings: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, **settings)
        self.batch = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))

    def step(self) -> float:
        """Forward, backward and the optimizer's step; returns its milliseconds."""
        begin = time.process_time_ns()
        self.optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(self.model(self.batch[0]), self.batch[1]))
        self.optimizer.step()
        return (time.process_time_ns() - begin) / 1e6


def kind(rule: Rule, step: int) -> str:
    """What a rule does at a step."""
    if rule.due(step):
        return "update"
    return "exploring" if rule.explores(step - 1) or rule.explores(step) else "hold"


def timed(training: Training, pruner: SparsePruner, step: int) -> float:
    """Milliseconds of the pruner's step of this number, after a step of the training."""
    pruner.load_state_dict({**pruner.state_dict(), "calls": step - 1})
    training.step()
    begin = time.process_time_ns()
    pruner.step()
    return (time.process_time_ns() - begin) / 1e6


def period_of(rule: Rule) -> int:
    """Steps between two updates of the same kind."""
    stages = [getattr(rule, field.name) for field in fields(rule) if field.name.endswith("_steps")]
    return sum(stages) or int(getattr(rule, "interval", 1))


def cost(rule: Rule, training: Training, step_ms: float, rounds: int) -> Cost:
    """Time a period in the middle of what the rule does."""
    pruner = SparsePruner(training.model, training.optimizer, rule)
    period = period_of(rule)
    begin = (rule.last or rule.steps) // 2 // period * period
    runs = [
        (what, list(steps)) for what, steps in groupby(range(begin + 1, begin + period + 1), lambda t: kind(rule, t))
    ]
    samples: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for found, (_, steps) in zip(samples, runs, strict=True):
            found += [timed(training, pruner, step) for step in steps[:SAMPLES]]
    medians = [statistics.median(found) for found in samples]
    sums = dict.fromkeys(("hold", "update", "exploring"), 0.0)
    counts = dict.fromkeys(sums, 0)
    for (what, steps), median in zip(runs, medians, strict=True):
        sums[what] += median * len(steps)
        counts[what] += len(steps)
    each = {what: sums[what] / count if count else None for what, count in counts.items()}
    total = step_ms * period + sum(sums.values())
    return Cost(
        period,
        each["hold"] or 0.0,
        each["update"],
        each["exploring"],
        sums["update"] / total,
        sum(sums.values()) / total,
    )


def to_try(steps: int) -> Iterator[tuple[str, Rule]]:
    """Every rule with its defaults, and the two that have another way."""
    for name, rule in rules().items():
        yield name, rule(steps=steps)
    yield "granet, sparse start", GraNet(steps=steps, initial_density=0.5)
    yield "nm, gradual", NM(steps=steps, gradual=True)


def row(*cells: str) -> str:
    """A line of the table."""
    return f"| {' | '.join(cells)} |"


def milliseconds(value: float | None) -> str:
    """A cell."""
    return "" if value is None else f"{value:.2f}"


def lines(options: argparse.Namespace) -> Iterator[str]:
    """The whole result."""
    load = os.getloadavg()[0]
    training = Training(options.batch_size)
    step_ms = statistics.median(training.step() for _ in range(2 + options.rounds))
    command = f"--steps {options.steps} --batch-size {options.batch_size} --rounds {options.rounds}"
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    yield "# What masks over single weights cost a training"
    yield ""
    yield f"`python benchmarks/regrow/overhead.py {command}`, {datetime.date.today()}, hwprune {hwprune.__version__},"
    yield f"torch {torch.__version__}, Python {platform.python_version()}, 1 thread, fp32. ResNet-20 for CIFAR"
    yield f"({parameters} parameters), random images, SGD with Nesterov momentum. Medians of CPU times."
    yield f"The machine was shared and busy: its load was {load:.1f} in the beginning, {{load}} in the end."
    yield ""
    yield f"A step of the training takes {step_ms:.1f} ms without a pruner."
    yield ""
    columns = ["rule", "period (steps)", "holding at zero, each step (ms)", "update (ms)", "exploring, each step (ms)"]
    yield row(*columns, "updates, of all time", "pruner, of all time")
    yield "|---|---|---|---|---|---|---|"
    for name, rule in to_try(options.steps):
        found = cost(rule, training, step_ms, options.rounds)
        cells = milliseconds(found.hold), milliseconds(found.update), milliseconds(found.exploring)
        yield row(name, str(found.period), *cells, f"{found.updates:.3%}", f"{found.all:.2%}")
    yield ""
    yield "Exploring counts what the pruner does, not that those steps train a dense network. Settings:"
    yield ""
    yield from (f"* {name}: `{json.dumps(rule.settings())}`" for name, rule in to_try(options.steps))
    yield ""
    yield f"Device: `{json.dumps(identity())}`"


def main() -> None:
    """Time every rule and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64_000, help="of the training that is imagined")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = "\n".join(lines(options)).replace("{load}", f"{os.getloadavg()[0]:.1f}") + "\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
