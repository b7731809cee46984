"""What became of the masks at every update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MaskUpdate:
    """One update of the masks.

    Attributes:
        step: optimizer steps done.
        density: share of the masked weights that is active.
        densities: the same, weight by weight.
        iou: active before and after, over active before or after; 1 if nothing changed.
        dropped: how many were active and are not.
        grown: how many are active and were not.
        survived: share of what the last update with any growth grew that is active still; None if there was none.
    """

    step: int
    density: float
    densities: dict[str, float]
    iou: float
    dropped: int
    grown: int
    survived: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class History:
    """Records of all updates, and which weights the last one grew.

    Attributes:
        updates: in the order of time.
        grown: weight → mask of what the last update with any growth grew; empty before that.
    """

    def __init__(self) -> None:
        self.updates: list[MaskUpdate] = []
        self.grown: dict[str, Tensor] = {}

    def record(self, step: int, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Add an update.

        Args:
            step: optimizer steps done.
            before: weight → mask, bool.
            after: the same, of the same weights.
        """
        dropped = sum(int((mask & ~after[name]).sum()) for name, mask in before.items())
        grown = {name: after[name] & ~mask for name, mask in before.items()}
        new, active = _count(grown), {name: int(mask.sum()) for name, mask in after.items()}
        either, earlier = sum(active.values()) + dropped, _count(self.grown)
        survived = sum(int((mask.to(after[name].device) & after[name]).sum()) for name, mask in self.grown.items())
        self.updates.append(
            MaskUpdate(
                step=step,
                density=sum(active.values()) / sum(mask.numel() for mask in after.values()),
                densities={name: count / after[name].numel() for name, count in active.items()},
                iou=(sum(active.values()) - new) / either if either else 1.0,
                dropped=dropped,
                grown=new,
                survived=survived / earlier if earlier else None,
            )
        )
        if new:
            self.grown = grown

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        grown = {name: mask.clone() for name, mask in self.grown.items()}
        return {"updates": [update.to_dict() for update in self.updates], "grown": grown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.updates = [MaskUpdate(**update) for update in state["updates"]]
        self.grown = {name: mask.clone() for name, mask in state["grown"].items()}


def _count(masks: Mapping[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())
