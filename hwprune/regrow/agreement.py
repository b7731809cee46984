"""Whether the processes of a distributed training have the same masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch.distributed
from torch import Tensor

from hwprune.errors import InputError


def checksum(masks: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bits."""
    digest = hashlib.sha256()
    for name, mask in masks.items():
        digest.update(f"{name}{tuple(mask.shape)}".encode())
        digest.update(np.packbits(mask.cpu().numpy()).tobytes())
    return digest.hexdigest()


def check_agreement(masks: Mapping[str, Tensor]) -> None:
    """Compare the masks of all processes; every process must call it. Does nothing outside a distributed training.

    Raises:
        InputError: they differ; raised in every process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    found: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, checksum(masks))
    if len(set(found)) > 1:
        odd = [rank for rank, one in enumerate(found) if one != found[0]]
        raise InputError(
            f"the masks of ranks {odd} differ from those of rank 0",
            hint="wrap the model in DistributedDataParallel before the pruner is built, give every rank the same rule, "
            "seed and state, and call step() after gradients were averaged; for trainings that have nothing to do "
            "with each other set check_ranks=False",
        )
