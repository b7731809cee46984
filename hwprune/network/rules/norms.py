"""Normalisations."""

from __future__ import annotations

import numpy as np

from hwprune.network.labels import Ids, Labelled
from hwprune.network.rules.step import Dims, Step


def batch_norm(step: Step) -> list[Dims]:
    """Every channel is normalised on its own: parameters and statistics go with it.

    Where the statistics are those of the batch, they change with whatever goes in its other dimensions, such as the
    inputs of a filter that is standardised.
    """
    source: Labelled = step["input"]
    ids = _affine(step, source, 1, ("weight", "bias", "running_mean", "running_var"))
    if step.arguments.get("training"):
        step.freeze_dims(source, set(source.dims) - {1}, "normalised over this dimension")
    return [_with(source, 1, ids)]


def group_norm(step: Step) -> list[Dims]:
    """Channels of one norm group share their statistics, so whole norm groups go (``num_groups`` shrinks).

    Where all channels are one group, it is a layer norm over them.
    """
    source: Labelled = step["input"]
    ids = _affine(step, source, 1, ("weight", "bias"))
    if ids is not None:
        groups: int = step.arguments.get("group") or step["num_groups"]
        if groups > 1 or not _over_kept(step):
            by_group = ids.reshape(groups, -1)
            step.labels.tie(by_group, np.broadcast_to(by_group[:, :1], by_group.shape))
    step.freeze_dims(source, set(source.dims) - {0, 1}, "normalised over this dimension")
    return [_with(source, 1, ids)]


def layer_norm(step: Step) -> list[Dims]:
    """Layer and RMS norm: over the last dimensions; with a weight of one dimension, over whatever is kept of it."""
    source: Labelled = step["input"]
    normalised = range(len(source.shape) - len(step["normalized_shape"]), len(source.shape))
    if len(normalised) > 1 or not _over_kept(step):
        step.freeze_dims(source, normalised, "layer normalisation without a weight per channel mixes all channels")
    dims = dict(source.dims)
    for offset, dim in enumerate(normalised):
        ids = _affine(step, source, dim, ("weight", "bias"), offset)
        dims = _with(Labelled(source.shape, dims), dim, ids)
    return [dims]


def _over_kept(step: Step) -> bool:
    """Whether the norm can run over the channels that are kept: by its weight it is known again."""
    weight: Labelled | None = step["weight"]
    return weight is not None and len(weight.shape) == 1 and step.labels.normalise(weight.dims.get(0))


def weight_norm(step: Step) -> list[Dims]:
    """A weight as direction and length: inputs may go (zeros do not change the length), filters may not."""
    direction: Labelled = step["v"]
    dim: int = step["dim"]
    ids = step.combine([(direction, dim), (step["g"], dim)], direction.shape[dim])
    step.freeze(ids, "a filter that is masked with zeros has no direction to normalise")
    return [_with(direction, dim, ids), {} if ids is None else {dim: ids}]


def _affine(step: Step, source: Labelled, dim: int, names: tuple[str, ...], offset: int = 0) -> Ids | None:
    parts = [(source, dim)]
    for name in names:
        tensor: Labelled | None = step.arguments.get(name)
        if tensor is not None:
            parts.append((tensor, offset))
            if offset in tensor.dims:
                step.labels.mark(tensor.dims[offset], "norm")
    return step.combine(parts, source.shape[dim])


def _with(source: Labelled, dim: int, ids: Ids | None) -> Dims:
    dims = {key: value for key, value in source.dims.items() if key != dim}
    return dims if ids is None else {**dims, dim: ids}
