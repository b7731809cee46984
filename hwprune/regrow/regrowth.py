"""Which pruned weights come back, when a number of them may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from hwprune.errors import InputError

Allocation = Literal["proportional", "global", "greedy"]


class Regrowth:
    """A choice of pruned weights for every number of them.

    Liu & Sheng (arXiv 2511.11675) search shares of the layers by reinforcement learning; these are the rules that
    their code compares it with, and a plain global ranking. Within a layer the most salient weights come first; of
    equal ones, that which lies first.

    * ``proportional``: every layer gets a share in proportion to 1 - SSIM, rounded down, at most all that it lacks.
    * ``greedy``: the layer of the lowest SSIM is filled up, then the next.
    * ``global``: the most salient weights of all layers; the first layer wins ties.

    What ``proportional`` leaves over is given to layers as ``greedy`` would. Our decisions: a layer without SSIM counts
    as 1, so it gets weights when the others are full; layers of equal SSIM come in the order of the model.

    Args:
        active: weight → mask, bool.
        saliency: weight → scores of all its elements, finite, in its shape.
        allocation: how weights are given to layers.
        similarity: weight → SSIM of its layer's outputs; not read by ``global``.

    Raises:
        InputError: an unknown allocation, or one by similarity where no layer has any.
    """

    def __init__(
        self,
        active: Mapping[str, Tensor],
        saliency: Mapping[str, Tensor],
        allocation: Allocation,
        similarity: Mapping[str, float],
    ) -> None:
        if allocation not in get_args(Allocation):
            raise InputError(f"allocation {allocation!r} is unknown", hint=f"known: {', '.join(get_args(Allocation))}")
        if allocation != "global" and not similarity:
            raise InputError(
                f"allocation {allocation!r} goes by the similarity of outputs, which no layer has",
                hint="observe the dense model, on images whose maps have three rows and columns at least; "
                "or use global",
            )
        self._active, self._allocation = active, allocation
        self._ranks = {name: _ranks(saliency[name].to(mask.device), mask) for name, mask in active.items()}
        self._lacking = {name: int((~mask).sum()) for name, mask in active.items()}
        self._need = {name: max(0.0, 1 - similarity.get(name, 1.0)) for name in active}
        self._layers = self._by_saliency(saliency) if allocation == "global" else torch.empty(0)

    @property
    def most(self) -> int:
        """All that is pruned."""
        return sum(self._lacking.values())

    def counts(self, count: int) -> dict[str, int]:
        """Weight → how many of its elements come back, ``count`` in all.

        Args:
            count: from 0 to :attr:`most`.
        """
        if self._allocation == "global":
            found = self._layers[:count].bincount(minlength=len(self._active)).tolist()
            return dict(zip(self._active, found, strict=True))
        given, total = dict.fromkeys(self._active, 0), sum(self._need.values())
        if self._allocation == "proportional" and total:
            shares = {name: int(count * need / total + 1e-9) for name, need in self._need.items()}
            given = {name: min(share, self._lacking[name]) for name, share in shares.items()}
        left = count - sum(given.values())
        for name in sorted(self._need, key=lambda name: -self._need[name]):
            more = min(left, self._lacking[name] - given[name])
            given[name], left = given[name] + more, left - more
        return given

    def masks(self, count: int) -> dict[str, Tensor]:
        """The masks with ``count`` more weights."""
        return {name: self._ranks[name] < of_layer for name, of_layer in self.counts(count).items()}

    def within(self, limit: float, size: Callable[[Mapping[str, Tensor]], float]) -> dict[str, Tensor]:
        """The masks with as many weights as a limit allows: with one more they would exceed it.

        Found by halving. Where the size does not grow with every weight, there may be other such numbers.

        Args:
            limit: of the size; at least that of the present masks.
            size: of a set of masks, any unit.
        """
        fits, too_many = 0, self.most + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if size(self.masks(middle)) <= limit:
                fits = middle
            else:
                too_many = middle
        return self.masks(fits)

    def _by_saliency(self, saliency: Mapping[str, Tensor]) -> Tensor:
        """The layer of every pruned weight, by falling saliency, shape (pruned weights,)."""
        scores = [saliency[name].to(mask.device)[~mask] for name, mask in self._active.items()]
        home = scores[0].device
        layers = torch.repeat_interleave(torch.tensor(list(self._lacking.values()), device=home))
        return layers[torch.cat([one.to(home) for one in scores]).argsort(descending=True, stable=True)]


def _ranks(scores: Tensor, active: Tensor) -> Tensor:
    """0 for the highest score of what is pruned, 1 for the next …; -1 for what is active."""
    order = scores.masked_fill(active, -torch.inf).flatten().argsort(descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return ranks.view(scores.shape).masked_fill_(active, -1)
