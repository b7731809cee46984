"""Which samples are kept back for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwprune.errors import DataError

VALIDATION_SHARE = 0.2


def stratified_split(labels: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """Split 80 to 20 within every class, the same way for the same seed.

    Args:
        labels: class index of every sample.
        seed: decides which samples.

    Returns:
        sorted indices for training and for validation; a class with one sample only is in the first.

    Raises:
        DataError: no class has two samples.
    """
    array = np.asarray(labels)
    random = np.random.default_rng(seed)
    validation: list[int] = []
    for label in np.unique(array):
        members = random.permutation(np.flatnonzero(array == label))
        count = min(max(round(len(members) * VALIDATION_SHARE), 1), len(members) - 1)
        validation.extend(members[:count].tolist())
    if not validation:
        raise DataError(
            f"{len(array)} samples cannot be split into training and validation",
            hint="give at least two samples per class",
        )
    kept_back = set(validation)
    return [index for index in range(len(array)) if index not in kept_back], sorted(validation)
