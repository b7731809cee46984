"""From the sum of a network's layers to the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from hwprune.latency.entry import Floats

FEWEST = 20  # networks to fit a curve to
BENT = 0.3  # the exponent is within so much of 1
FURTHEST = 30.0  # times the typical sum, beyond which the curve does not bend on
OUTLIER = 0.02  # relative error beyond which a network counts less


@dataclass(frozen=True)
class Curve:
    """A network takes ``factor · sum · (sum / at_ms) ** (exponent - 1)``, the sum being that of its layers.

    The layers of a small network find more of what they need in the caches than those of a large one, and each is a
    little faster for it; no function of a layer's own size can tell. An exponent of 1.04 is 7 % between networks of
    which one takes five times as long as the other.

    Attributes:
        exponent: 1 where size does not matter.
        factor: at the typical size.
        at_ms: the sum of the typical network.
    """

    exponent: float = 1.0
    factor: float = 1.0
    at_ms: float = 1.0

    def total(self, sum_ms: float) -> float:
        """What a network takes whose layers sum to this, in ms."""
        size = min(max(sum_ms / self.at_ms, 1 / FURTHEST), FURTHEST)
        return float(self.factor * sum_ms * size ** (self.exponent - 1))


def fitted_curve(sums_ms: Floats, totals_ms: Floats) -> Curve:
    """The curve through networks, robustly.

    Args:
        sums_ms: sums of layers by a table that did not know these networks, shape (networks,).
        totals_ms: what they measured, same shape.
    """
    if len(sums_ms) < FEWEST:
        return Curve()
    at_ms = float(np.median(sums_ms))
    size, off = np.log(sums_ms / at_ms), np.log(totals_ms / sums_ms)
    bounds = ([-BENT, -np.inf], [BENT, np.inf])
    found = least_squares(
        lambda values: values[0] * size + values[1] - off, x0=[0.0, 0.0], bounds=bounds, loss="soft_l1", f_scale=OUTLIER
    )
    bend, level = found.x.tolist()
    return Curve(exponent=1 + bend, factor=float(np.exp(level)), at_ms=at_ms)
