"""Curves over the steps of a training."""

from __future__ import annotations

import math


def cubic(step: int, *, begin: int, end: int, first: float, last: float) -> float:
    """From ``first`` down to ``last``, fast in the beginning: last + (first - last) · (1 - progress)³.

    Zhu & Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878), equation 1, written for the density.
    """
    if end <= begin:
        return last if step >= end else first
    progress = min(max((step - begin) / (end - begin), 0.0), 1.0)
    return last + (first - last) * (1 - progress) ** 3


def cosine(step: int, *, end: int, first: float, last: float = 0.0) -> float:
    """From ``first`` to ``last`` along half a cosine, and ``last`` after ``end``."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(step, end) / max(end, 1)))
