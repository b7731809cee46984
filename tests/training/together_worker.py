"""A training in one process of several, or alone; run by test_processes.py. Prints what came of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hwprune.errors import ElsewhereError, HwpruneError
from hwprune.training import ClassificationTask, Data, TrainConfig, launched, recalibrate_batchnorm, train
from hwprune.training.processes import checksum

SAMPLES = 26


class Net(nn.Module):
    """With an output that the loss does not read, a parameter that nothing reads, and perhaps a batch norm."""

    def __init__(self, norm: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.norm = nn.Linear(5, 12), nn.BatchNorm1d(12) if norm else nn.Identity()
        self.head, self.beside = nn.Linear(12, 3), nn.Linear(12, 2)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.stem(x)).relu()
        return (self.head(x), self.beside(x)) if self.training else self.head(x)


class DividedByLoss(ClassificationTask):
    """Fails in one process after some steps."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.steps = rank, 0

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        with launched() as here:
            self.steps += 1
            if here.rank == self.rank and self.steps == 3:
                raise ZeroDivisionError("made up")
        return super().loss(model, batch)


def data(samples: int) -> Data:
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(samples, 5, generator=generator).double(), torch.arange(samples) % 3
    sets = TensorDataset(inputs, labels), TensorDataset(inputs[:7], labels[:7])
    return Data(train=sets[0], validation=sets[1])


def main(asked: dict[str, Any]) -> dict[str, Any]:
    samples, failing, norm = asked.pop("samples", [SAMPLES]), asked.pop("failing", None), asked.pop("norm", False)
    config = TrainConfig(accelerator="cpu", epochs=3, **asked)
    with launched() as here:
        net = Net(norm, seed=here.rank).double()  # the first one's weights count
        task = ClassificationTask() if failing is None else DividedByLoss(failing)
        state = train(net, data(samples[here.rank % len(samples)]), task, config)
        used = recalibrate_batchnorm(net, data(SAMPLES), task, config=config)
        result = {
            "history": state.history,
            "weights": checksum([*net.parameters(), *net.buffers()]),
            "values": torch.cat([value.flatten() for value in net.parameters()]).tolist(),
            "draws": float(functional.dropout(torch.ones(9)).sum()),
            "used": used,
            "idle": net.idle.tolist(),
        }
    return result


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except (HwpruneError, ZeroDivisionError) as error:
        print(json.dumps([type(error).__name__, str(error)]))
        sys.exit(4 if isinstance(error, ElsewhereError) else 3)
