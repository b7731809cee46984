"""Which channel counts are measured, and which widths are worth offering."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence


def allowed_widths(channels: int, step: int) -> tuple[int, ...]:
    """Widths worth offering: counts between two steps cost as much as the next step.

    Args:
        channels: of the dense group, at least 1.
        step: the table's ``channel_step``.

    Returns:
        the multiples of ``step`` below ``channels``, then ``channels``.
    """
    return (*range(step, channels, step), channels)


def group_step(step: int, positions: int) -> int:
    """The width step of a group whose channels are several positions each: so that whole steps of positions go.

    Args:
        step: the table's ``channel_step``.
        positions: that a channel is; 0 or 1 of ordinary channels, the size of a head of attention heads.
    """
    return step // math.gcd(step, positions or 1)


def rounded_up(size: int, step: int) -> int:
    """The step edge at or above ``size``."""
    return -(-size // step) * step


def sample_sizes(dense: Collection[int], smallest: Collection[int], *, step: int, points: int) -> tuple[int, ...]:
    """Channel counts to measure along one axis.

    The ends come first, then sizes that dense networks have, then multiples of the step, each in the middle of the
    widest gap left. Sizes below the step are all kept: no step edge stands for them.

    Args:
        dense: sizes of the layers that share the entry, in the dense network.
        smallest: the least sizes that each of them can be cut to; the dense size of one that cannot.
        step: the target's channel step.
        points: how many at most (more only if the ends and the sizes below the step are more).

    Returns:
        ascending.
    """
    low, top = min(smallest), max(dense)
    edges = {size for size in smallest if size % step == 0}
    chosen = {low, top, *(size for size in dense if size < step), *([min(edges)] if edges else [])}
    multiples = range(rounded_up(low, step), top, step)
    for candidates in (sorted(dense), multiples):
        while len(chosen) < points:
            size = _middle_of_widest_gap(sorted(chosen), candidates)
            if size is None:
                break
            chosen.add(size)
    return tuple(sorted(chosen))


def _middle_of_widest_gap(chosen: Sequence[int], candidates: Collection[int]) -> int | None:
    gaps = sorted(itertools.pairwise(chosen), key=lambda gap: gap[0] - gap[1])
    for low, high in gaps:
        inside = [size for size in candidates if low < size < high]
        if inside:
            return min(inside, key=lambda size: abs(2 * size - low - high))
    return None
