"""One process of two that train under DistributedDataParallel, with every rule; run by test_processes.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from models import OPTIMIZERS, batches, convolutions
from torch.nn import functional

from hwprune.errors import InputError
from hwprune.regrow import SET, Rule, SparsePruner, rules
from hwprune.regrow.agreement import checksum

STEPS = 30


def of_name(name: str) -> Rule:
    """The rule with several updates in 30 steps."""
    stages = {"importance_steps": 3, "accuracy_steps": 2, "exploration_steps": 3, "density": 0.3}
    settings = {"iee": stages, "nm": {"gradual": True, "interval": 3}}.get(name, {"interval": 3, "density": 0.3})
    return rules()[name](steps=STEPS, **settings)


def trained(name: str, rank: int, ranks: int) -> list[str]:
    """Checksums of the masks after every step, from this rank's part of every batch."""
    model = convolutions(seed=rank if ranks > 1 else 0, norm=False).double()
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    pruner = SparsePruner(model, optimizer, of_name(name), seed=5)
    found = []
    for inputs, labels in batches("convolutions", STEPS):
        functional.cross_entropy(wrapped(inputs.double()[rank::ranks]), labels[rank::ranks]).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        found.append(checksum(pruner.masks.active))
    return found


def disagree(rank: int) -> str:
    """What is said where masks differ."""
    model = convolutions()
    try:
        SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), SET(steps=STEPS), seed=rank)
    except InputError as error:
        SparsePruner(model, OPTIMIZERS["sgd"](model.parameters()), SET(steps=STEPS), seed=rank, check_ranks=False)
        return error.message
    return ""


def main(folder: Path, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {"masks": {name: trained(name, rank, 2) for name in rules()}, "error": disagree(rank)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
