"""The file that a sparse network is stored in: its bytes, and how many weights may stay so that it fits a budget."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from hwprune.budget import spell
from hwprune.compression.job import Job
from hwprune.deploy import export_onnx, pack
from hwprune.errors import BudgetError

FULL = 0.995  # of a budget: no search for more weights goes on beyond that


def stored_bytes(job: Job, model: nn.Module) -> int:
    """Bytes of a network, exported and packed in the form that was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, job.example, path)
        return len(pack(path, job.config.stored_as))


def most_inside(size: Callable[[int], int], limit: float, most: int) -> int:
    """How many weights may stay: as many as fit, to half a percent of the budget.

    Bytes grow with the weights, mostly in a line; so the next number is where the line between the closest ones on
    either side comes out, and every third one halves what is between them. What is returned was measured.

    Args:
        size: number of weights → bytes.
        limit: of the bytes.
        most: number of weights that there are.

    Raises:
        BudgetError: not even a file without weights fits.
    """
    high, above = most, size(most)
    if above <= limit:
        return most
    low, below = 0, size(0)
    if below > limit:
        raise BudgetError(
            f"the stored file cannot be brought to {spell('size_bytes', limit)}: with all masked weights zero it takes "
            f"{spell('size_bytes', below)}",
            hint="give a larger --size, another --storage, or a budget for which channels are cut as well",
        )
    turn = 0
    while high - low > 1 and below < FULL * limit:
        turn += 1
        part = 0.5 if turn % 3 == 0 else ((1 + FULL) / 2 * limit - below) / (above - below)
        middle = min(max(round(low + part * (high - low)), low + 1), high - 1)
        found = size(middle)
        if found <= limit:
            low, below = middle, found
        else:
            high, above = middle, found
    return low
