"""From the saliency of single channels to choices of widths.

HALP's latency-aware grouping (Shen et al., NeurIPS 2022, §3.3): the channels of a group are ranked, and only
widths at a step of the latency staircase are offered, so that chunks of neighbours in rank stay or go together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .problem import Choices


def kept_channels(saliency: ArrayLike, width: int) -> list[int]:
    """The ``width`` channels of greatest saliency; of equals, those of lower index.

    Args:
        saliency: shape (channels,).
        width: how many to keep, 0 to channels.

    Returns:
        Indices, sorted.
    """
    order = np.argsort(-np.asarray(saliency, dtype=np.float64), kind="stable")
    return sorted(order[:width].tolist())


def rank(saliency: ArrayLike, widths: Sequence[int], *, held: int = 0) -> Choices:
    """Total saliency that each allowed width keeps when the best channels stay.

    ``I(p) = Σ_{j≤p} Z^j`` with Z sorted descending (HALP eq. 3).

    Args:
        saliency: shape (channels,), finite.
        widths: allowed widths, ascending, none above the number of channels.
        held: further channels that stay in any case: they are part of every width, and their saliency is not counted.

    Raises:
        ValueError: saliency that is not finite, or a width above the number of channels.
    """
    values = np.asarray(saliency, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("saliency contains NaN or infinity")
    if max(widths) > values.size + held:
        raise ValueError(f"width {max(widths)} is more than the {values.size + held} channels there are")
    kept = np.concatenate(([0.0], np.cumsum(-np.sort(-values))))
    return Choices(widths=tuple(widths), saliency=tuple(kept[[width - held for width in widths]].tolist()))
