"""The penalty that makes a hyperspherical network ready to be pruned."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.regrow.distribution import weights_at
from hwprune.regrow.hyperspherical import unit_weight
from hwprune.regrow.ranking import top_k, top_k_of_all, top_k_per_row


class SeparationPenalty:
    """Pushes the weights that are to stay away from zero, and the others to it.

    A reconstruction after the abstract of Liu & Liu, "Pruning On-the-Fly" (arXiv 2212.12651); these equations are ours.
    The largest |ŵ| are to stay (of every filter, of every layer, or of all together), chosen anew at every call; the
    choice has no gradient. Of filter o, which keeps k of its weights:

        far · Σ_kept (|ŵ| - 1/√k)² + Σ_others ŵ²,

    averaged over the filters of a layer and summed over layers. With far = 1 that is 2·(1 - cos(ŵ, t)) to the nearest
    vector t of unit norm that has k equal magnitudes and is zero elsewhere. A filter that keeps nothing has no t; what
    it adds is constant on the sphere.

    Add :meth:`loss` to the loss of the task, and call :meth:`step` after every ``optimizer.step()``. λ is 0 for
    ``warmup`` steps, then rises in a line over ``ramp`` steps to ``strength``.

    Args:
        model: made by :func:`~hwprune.regrow.hyperspherical.hyperspherical`, the bare module.
        density: share of the weights that are to stay.
        scope: ``filter`` or ``layer``, the same share of every one, or ``global``. Filters with few weights have larger
            ones, and keep more where all are ranked together. Only ``filter`` leaves no filter without any, and keeps
            at least one weight of each.
        strength: λ in the end.
        warmup: steps without penalty.
        ramp: steps of the rise; 0 for none.
        far: weight of the first term.

    Raises:
        InputError: a setting is out of its range, or nothing in the model is hyperspherical.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        scope: Literal["filter", "layer", "global"] = "layer",
        strength: float = 1.0,
        warmup: int = 0,
        ramp: int = 1000,
        far: float = 1.0,
    ) -> None:
        _require("density", density, 0 < density < 1, "above 0 and below 1")
        _require("scope", scope, scope in ("filter", "layer", "global"), "filter, layer or global")
        for field, value in {"strength": strength, "far": far, "warmup": warmup, "ramp": ramp}.items():
            _require(field, value, math.isfinite(value) and value >= 0, "a number of at least 0")
        self.model, self.density, self.scope, self.strength = model, density, scope, strength
        self.warmup, self.ramp, self.far, self._calls = warmup, ramp, far, 0
        if not self._rows():
            raise InputError("nothing in the model is hyperspherical", hint="give what hyperspherical() made")

    @property
    def weight(self) -> float:
        """λ of this step."""
        if self.finished:
            return self.strength
        return self.strength * max(0, self._calls - self.warmup) / self.ramp

    @property
    def finished(self) -> bool:
        """True once λ has come to its strength."""
        return self._calls >= self.warmup + self.ramp

    def step(self) -> None:
        """Account for one training step."""
        self._calls += 1

    def loss(self) -> Tensor:
        """λ times the penalty, a scalar with gradient; 0 during the warm-up.

        Raises:
            InputError: a weight is not finite.
        """
        rows = self._rows()
        if not self.weight:
            return torch.zeros((), device=next(iter(rows.values())).device)
        return self.weight * self.penalty(rows)

    def penalty(self, rows: dict[str, Tensor] | None = None) -> Tensor:
        """The penalty without λ.

        Raises:
            InputError: a weight is not finite.
        """
        rows = self._rows() if rows is None else rows
        kept = self._kept({name: row.detach().abs() for name, row in rows.items()})
        parts = [self._of_layer(row, kept[name]) for name, row in rows.items()]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def _of_layer(self, rows: Tensor, kept: Tensor) -> Tensor:
        goal = kept.sum(1, keepdim=True).clamp_min(1).to(rows.dtype).rsqrt()
        away = (rows.abs() - goal).square() * self.far
        return torch.where(kept, away, rows.square()).sum(1).mean()

    def _kept(self, magnitudes: dict[str, Tensor]) -> dict[str, Tensor]:
        if bad := [name for name, value in magnitudes.items() if not bool(value.isfinite().all())]:
            raise InputError(
                f"the training diverged: {', '.join(bad)} not finite",
                hint="lower the learning rate, add warm-up or clip gradients",
            )
        if self.scope == "filter":
            return {name: self._kept_of_each(value) for name, value in magnitudes.items()}
        if self.scope == "layer":
            return {name: top_k(value, weights_at(value.numel(), self.density)) for name, value in magnitudes.items()}
        everything = {name: torch.ones_like(value, dtype=torch.bool) for name, value in magnitudes.items()}
        total = sum(value.numel() for value in magnitudes.values())
        return top_k_of_all(magnitudes, weights_at(total, self.density), everything)

    def _kept_of_each(self, rows: Tensor) -> Tensor:
        counts = torch.full_like(rows[:, 0], max(1, weights_at(rows.shape[1], self.density)), dtype=torch.long)
        return top_k_per_row(rows, counts, torch.ones_like(rows, dtype=torch.bool))

    def _rows(self) -> dict[str, Tensor]:
        """Layer → normalised weight, shape (filters, fan-in); a weight of several layers is there once."""
        found, seen = dict[str, Tensor](), set[int]()
        for name, module in self.model.named_modules():
            unit = unit_weight(module)
            if unit is None:
                continue
            original = id(module.parametrizations["weight"].original)
            if original not in seen:
                seen.add(original)
                rows = unit.layout.rows(module.get_parameter("parametrizations.weight.original"))
                found[name] = nn.functional.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Steps done."""
        return {"calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._calls = int(state["calls"])


def _require(field: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise InputError(f"separation penalty: {field} is {value!r}", hint=f"it must be {allowed}")
