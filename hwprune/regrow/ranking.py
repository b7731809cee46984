"""Exact numbers of the best elements, the same on every device and in every process.

``torch.topk`` may break ties as it likes; here the element that lies first wins, so that masks can be compared bit for
bit. RigL's code adds noise of 1e-5 to break ties, which would hide what is compared here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def top_k(scores: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """The ``count`` highest scores.

    Args:
        scores: any shape, finite, at least float32.
        count: how many; at most as many as there are in ``among``.
        among: bool, in the shape of ``scores``: which may be chosen; all if not given.

    Returns:
        bool, in the shape of ``scores``, exactly ``count`` of them true.
    """
    flat = (scores if among is None else scores.masked_fill(~among, -torch.inf)).flatten()
    if count <= 0 or count >= flat.numel():
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = flat.topk(count, sorted=False).values.min()
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view(scores.shape)


def top_k_of_all(scores: Mapping[str, Tensor], count: int, among: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``count`` highest scores of several tensors together; ties go to the first tensor.

    Args:
        scores: name → tensor, all on one device or on several.
        count: how many over all tensors; at most as many as there are in ``among``.
        among: name → bool: which may be chosen.
    """
    home = next(iter(scores.values())).device
    flat = torch.cat([value.masked_fill(~among[name], -torch.inf).flatten().to(home) for name, value in scores.items()])
    parts = torch.split(top_k(flat, count), [value.numel() for value in scores.values()])
    return {name: part.view_as(scores[name]).to(scores[name].device) for name, part in zip(scores, parts, strict=True)}


def top_k_per_row(scores: Tensor, counts: Tensor, among: Tensor) -> Tensor:
    """The highest scores of every row.

    Args:
        scores: shape (rows, columns).
        counts: shape (rows,): how many of each row, at most as many as it has in ``among``.
        among: bool, shape (rows, columns): which may be chosen.
    """
    order = scores.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < counts.unsqueeze(1)) & among


def random_k(among: Tensor, count: int, key: str) -> Tensor:
    """``count`` elements of those that may be chosen, each set of them equally likely.

    Args:
        among: bool, any shape.
        count: how many.
        key: what the choice depends on; the same key gives the same choice on any device and in any process.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    places = among.flatten().nonzero().squeeze(1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]
    chosen = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    chosen[places[order.to(places.device)]] = True
    return chosen.view(among.shape)
