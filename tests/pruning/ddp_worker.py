"""One process of two that train under DistributedDataParallel; run by tests of the pruners."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from made_up import Bottleneck, batches, made_up_table
from torch.nn import functional

from hwprune.network import trace
from hwprune.pruning import BudgetPruner, PruneSchedule, price
from hwprune.regrow import ExploreSchedule, ExploringPruner


def main(folder: Path, rank: int, explore: bool) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = Bottleneck(seed=rank)  # DDP hands out the weights of rank 0
    network = trace(model, torch.zeros(1, 1, 8, 8))
    pricing = price(network, "latency_ms", table=made_up_table(network))
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    limit = pricing.value(pricing.dense) / 2
    if explore:
        stages = ExploreSchedule(cycles=2, importance_steps=2, accuracy_steps=1, exploration_steps=2)
        pruner = ExploringPruner(model, network, pricing, limit=limit, schedule=stages)
    else:
        pruner = BudgetPruner(model, network, pricing, limit=limit, schedule=PruneSchedule(steps=3, interval=2))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for images, labels in batches(12 if explore else 6, seed=rank):
        loss = functional.cross_entropy(wrapped(images), labels)
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
        optimizer.zero_grad()
    plan, smaller = pruner.finish()
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in smaller.parameters())).hexdigest()
    used = plan.used["latency_ms"] / pricing.value(pricing.dense)
    found = {"plan": [plan.widths, plan.kept], "weights": digest, "loss": float(loss), "used": used}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]), sys.argv[2] == "explore")
