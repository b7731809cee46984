"""Layers of a runtime that tells only what whole networks take.

Latency is taken for a sum over kinds of operators, each linear in its multiply-accumulates, the numbers it reads and
writes, its weights, and how often it is called, with no coefficient below zero (non-negative least squares). What that
gives each layer of a network is scaled to the network's own time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

from hwprune.latency.entry import Floats
from hwprune.latency.layer import Layer

FEATURES = 4


def estimated(layers: Sequence[Layer], widths: Sequence[Mapping[str, int]], total_ms: Floats) -> Floats:
    """What each layer took in each network.

    Args:
        layers: of the network.
        widths: of each network that was measured.
        total_ms: its latency, shape (networks,).

    Returns:
        shape (networks, layers), above 0; rows sum to ``total_ms``.
    """
    kinds: dict[tuple[object, ...], int] = {}
    column = np.array([kinds.setdefault(_kind(layer), len(kinds)) for layer in layers])
    features = np.array([[_features(layer, one) for layer in layers] for one in widths])  # networks, layers, features
    level = np.maximum(features.max(axis=(0, 1)), 1e-12)
    features = features / level
    sums = np.zeros((len(widths), len(kinds), FEATURES))
    np.add.at(sums.transpose(1, 0, 2), column, features.transpose(1, 0, 2))
    rows = sums.reshape(len(widths), -1) / total_ms[:, None]
    # A trace of ridge: kinds that always grow together share what they explain.
    ridge = 1e-3 * np.eye(rows.shape[1]) * np.sqrt(len(rows)) * rows.mean()
    found, _ = nnls(np.vstack([rows, ridge]), np.concatenate([np.ones(len(rows)), np.zeros(len(ridge))]))
    parts = np.einsum("nlf,lf->nl", features, found.reshape(-1, FEATURES)[column])
    parts = np.maximum(parts, 1e-6 * total_ms[:, None])
    return np.asarray(parts * (total_ms / parts.sum(axis=1))[:, None])


def _kind(layer: Layer) -> tuple[object, ...]:
    window = layer.attributes.get("kernel", [])
    return layer.op, layer.cut_per_group, math.prod(window) > 1


def _features(layer: Layer, widths: Mapping[str, int]) -> tuple[float, ...]:
    moved = sum(math.prod(operand.at(widths)) for operand in (*layer.inputs, layer.output))
    return layer.macs_at(widths), moved, layer.parameters_at(widths), 1.0
