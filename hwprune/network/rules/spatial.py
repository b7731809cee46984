"""Pooling, resizing, padding by reflection; rearrangements between channels and space."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from hwprune.network.rules.step import Dims, Rule, Step


def spatial(step: Step) -> list[Dims]:
    """The last one, two or three dimensions are mixed (the operator's name says how many); the others pass."""
    found = re.search(r"([123])d", step.call.op)
    count = int(found.group(1)) if found else 2
    dims: Dims = {}
    shape = step.shapes[0]
    for tensor in step.tensors:
        rank = len(tensor.shape)
        step.freeze_dims(tensor, range(rank - count, rank), "pooled or resized along this dimension")
    for dim in range(len(shape) - count):
        parts = [(tensor, dim) for tensor in step.tensors if len(tensor.shape) == len(shape)]
        ids = step.combine(parts, shape[dim])
        if ids is not None:
            dims[dim] = ids
    return [dims] * len(step.shapes)


def _rearranged(move: Callable[[Step, np.ndarray], np.ndarray]) -> Rule:
    def rule(step: Step) -> list[Dims]:
        source = step.source
        dim = 1 if step.call.op in ("im2col", "col2im", "channel_shuffle") else len(source.shape) - 3
        step.freeze_dims(source, set(source.dims) - {0, dim}, "rearranged along this dimension")
        dims = {key: ids for key, ids in source.dims.items() if key == 0 and key != dim}
        return [{**dims, dim: move(step, source.dims[dim])} if dim in source.dims else dims]

    return rule


def _together(step: Step, rows: np.ndarray) -> np.ndarray:
    """Tie every row of a matrix of ids to its first entry, which is returned."""
    step.labels.tie(rows, np.broadcast_to(rows[:, :1], rows.shape))
    return rows[:, 0]


def _pixel_shuffle(step: Step, ids: np.ndarray) -> np.ndarray:
    return _together(step, ids.reshape(-1, step["upscale_factor"] ** 2))


def _pixel_unshuffle(step: Step, ids: np.ndarray) -> np.ndarray:
    return np.repeat(ids, step["downscale_factor"] ** 2)


def _channel_shuffle(step: Step, ids: np.ndarray) -> np.ndarray:
    """(groups, rest) → (rest, groups): a column of the first goes as a whole, so that groups stay equal."""
    columns = ids.reshape(step["groups"], -1).T
    _together(step, columns)
    return columns.ravel()


def _im2col(step: Step, ids: np.ndarray) -> np.ndarray:
    return np.repeat(ids, step.shapes[0][-2] // ids.size)


def _col2im(step: Step, ids: np.ndarray) -> np.ndarray:
    return _together(step, ids.reshape(-1, math.prod(step["kernel_size"])))


pixel_shuffle = _rearranged(_pixel_shuffle)
pixel_unshuffle = _rearranged(_pixel_unshuffle)
channel_shuffle = _rearranged(_channel_shuffle)
im2col = _rearranged(_im2col)
col2im = _rearranged(_col2im)
