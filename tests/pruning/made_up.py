"""A latency table that nobody measured, and a loop that trains on noise."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

from hwprune.latency import LatencyTable, allowed_widths, group_step
from hwprune.latency.entry import Entry
from hwprune.latency.fusion import fused_into
from hwprune.latency.key import channel_dim, costed_operands, key_of
from hwprune.network import Network
from hwprune.targets import Target, runtime_for

PROTOCOL = {
    "clock": "none",
    "rounds": 9,
    "burst": 4,
    "points": 3,
    "networks": 0,
    "seed": 0,
    "null_run_ms": 0.001,
    "anchor_drift": 0.0,
    "clean_fraction": 1.0,
    "measured_at": "2026-01-01T00:00:00+00:00",
    "hwprune": "0",
}


def made_up_table(network: Network, *, step: int = 4, seed: int = 0, target: Target | None = None) -> LatencyTable:
    """Milliseconds that grow with the channels, on a grid coarser than the widths on offer."""
    target, random = target or Target(name="made-up"), np.random.default_rng(seed)
    runtime = runtime_for(target)
    fused, channels = fused_into(network.layers, runtime), network.dense_widths
    steps = {group.name: group.positions for group in network.cuttable}
    entries: dict[str, list[Any]] = {}
    for layer in network.layers:
        if layer.name in fused:
            continue
        key = key_of(layer)
        sizes = entries.setdefault(key.identity, [key, [set() for _ in costed_operands(layer)]])[1]
        for (_, operand), seen in zip(costed_operands(layer), sizes, strict=True):
            groups = operand.positions.groups
            allowed = {g: allowed_widths(channels[g], group_step(step, steps.get(g, 1))) for g in groups}
            seen.add(operand.shape[channel_dim(layer, operand)])
            if operand.channel_dim is not None:
                sizes_at = [operand.positions.size({g: widths[i] for g, widths in allowed.items()}) for i in (0, -1)]
                ends = [operand.channels(size) for size in sizes_at]
                low = -(-ends[0] // step) * step
                seen.update({min(low, ends[1]), ends[0], ends[1]})
                seen.update({-(-ends[1] // 2 // step) * step} if ends[1] // 2 > low else ())
    return LatencyTable(
        target=target,
        device=runtime.fingerprint(),
        protocol=PROTOCOL,
        channel_step=step,
        scale=0.9,
        scale_source={"method": "none"},
        entries=tuple(_entry(key, [sorted(axis) for axis in sizes], random) for key, sizes in entries.values()),
    )


def _entry(key: Any, sizes: list[list[int]], random: np.random.Generator) -> Entry:
    weight = random.uniform(0.5, 2) * (1e-3 if key.op in ("conv", "conv_transpose", "linear") else 1e-4)
    shape = tuple(len(axis) for axis in sizes)
    values = [0.01 + weight * float(np.prod(point)) for point in itertools.product(*sizes)]
    return Entry(
        key=key,
        sizes=tuple(tuple(axis) for axis in sizes),
        latency_ms=np.array([float(f"{value:.6g}") for value in values]).reshape(shape),
        iqr_ms=np.zeros(shape),
        repeats=np.full(shape, 9),
    )


class Bottleneck(nn.Module):
    """A residual block, a depthwise convolution, a classifier: small enough to train in a test."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(16, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.SiLU(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.last = nn.Conv2d(16, 20, 3, stride=2, padding=1)
        self.fc = nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc(torch.sigmoid(self.last(x + self.body(x))).mean((2, 3)))


def batches(count: int, *, size: int = 8, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose class is how bright they are."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        labels = torch.randint(0, 3, (size,), generator=generator)
        images = torch.randn(size, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
        found.append((images, labels))
    return found
