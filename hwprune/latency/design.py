"""At which widths networks are measured, so that every layer is seen at many channel counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import qmc

from hwprune.latency.sampling import allowed_widths, group_step

JITTER = 0.3  # how far the widths of one network spread around its level


def designed_widths(
    channels: Mapping[str, int], step: int, count: int, seed: int, positions: Mapping[str, int] | None = None
) -> list[dict[str, int]]:
    """Widths of several networks.

    In every other network the groups are drawn independently of each other (a Latin hypercube: each group takes all of
    its range over the networks). In the others they spread around a level of the network's own, for otherwise layers
    behind a concatenation, and the network as a whole, would always be about half as wide as the dense one.

    Args:
        channels: cuttable group → channels of the dense network.
        step: the target's channel step; only its multiples and the dense widths are drawn.
        count: networks.
        seed: of what is drawn.
        positions: group → positions that one of its channels is (:func:`group_step`); 1 if not given.
    """
    groups = list(channels)
    if not groups:
        return [{} for _ in range(count)]
    shares = qmc.LatinHypercube(len(groups) + 1, rng=np.random.default_rng(seed)).random(count)
    level, own = shares[:, :1], shares[:, 1:]
    together = np.clip(level * (1 + JITTER) - JITTER / 2 + JITTER * (own - 0.5), 0, 1 - 1e-9)
    shares = np.where(np.arange(count)[:, None] % 2 == 0, own, together)
    steps = [group_step(step, (positions or {}).get(group, 1)) for group in groups]
    allowed = [allowed_widths(channels[group], own) for group, own in zip(groups, steps, strict=True)]
    return [
        {group: widths[int(share * len(widths))] for group, widths, share in zip(groups, allowed, row, strict=True)}
        for row in shares
    ]
