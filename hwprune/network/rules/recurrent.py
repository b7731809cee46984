"""Recurrent layers, all of a module's layers and directions in one call."""

from __future__ import annotations

import numpy as np

from hwprune.network.labels import Ids, Labelled
from hwprune.network.rules.step import Dims, Step, unknown


def recurrent(step: Step) -> list[Dims]:
    """``lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu``: a hidden unit goes with its gates, in every layer and direction.

    A unit whose weights and biases are all zero stays at zero, if it begins there. Torch's modules have one hidden
    size, so layers and directions lose units together. With projections (``proj_size``) there is no rule.
    """
    source: Labelled = step["input"]
    last = len(source.shape) - 1
    directions = 1 + step["bidirectional"]
    per_layer = 2 + 2 * step["has_biases"]
    weights: list[Labelled] = step["params"]
    if len(weights) != per_layer * directions * step["num_layers"] or 1 not in weights[1].dims:
        return unknown(step)
    step.freeze_dims(source, set(source.dims) - {last}, "a recurrent layer runs along this dimension")
    units = weights[1].dims[1]
    for start in range(0, len(weights), per_layer):
        _cell(step, weights[start : start + per_layer], units)
        if start < per_layer * directions:
            step.contract((source, last), (weights[start], 1))
        else:
            step.labels.tie(weights[start].dims[1], np.tile(units, directions))
    given = step["hx"] if isinstance(step["hx"], list | tuple) else [step["hx"]]
    for state in (state for state in given if len(state.shape) - 1 in state.dims):
        step.labels.tie(state.dims[len(state.shape) - 1], units)
    states: list[Dims] = [{len(shape) - 1: units} for shape in step.shapes[1:]]
    return [{last: np.tile(units, directions)}, *states]


def _cell(step: Step, weights: list[Labelled], units: Ids) -> None:
    """One layer in one direction: weights of inputs and of units, and their biases; gate after gate in dimension 0."""
    step.labels.tie(weights[1].dims[1], units)
    for weight in weights:
        gates = weight.dims[0].reshape(-1, units.size)
        step.labels.tie(gates, np.broadcast_to(units, gates.shape))
        step.labels.mark(weight.dims[0], "out")
    for weight in weights[:2]:
        step.labels.mark(weight.dims[1], "in")
