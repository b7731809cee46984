"""How many weights every layer keeps at a given density of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from hwprune.errors import InputError

Distribution = Literal["uniform", "erk"]
Shapes = Mapping[str, tuple[int, ...]]


def weights_at(total: int, density: float) -> int:
    """Weights that are left of ``total`` at a density: rounded down, but 10 % of 1000 is 100, not 99."""
    return min(total, int(total * density + 1e-6))


def layer_densities(kind: Distribution, shapes: Shapes, density: float) -> dict[str, float]:
    """Share of its weights that every layer keeps.

    ``uniform`` gives every layer the same. ``erk`` is the Erdős–Rényi kernel of Evci et al., "Rigging the Lottery",
    ICML 2020 (arXiv 1911.11134), section 3: in proportion to (the sum of the weight's dimensions) / (their product),
    where a layer that would get more than all of its weights is dense and the rest share what is left.

    Args:
        kind: ``uniform`` or ``erk``.
        shapes: layer → shape of its weight, as stored. For a grouped convolution that counts the input channels of
            one group (our decision; the paper has none).
        density: share of all weights together.

    Raises:
        InputError: an unknown distribution.
    """
    if kind not in get_args(Distribution):
        raise InputError(f"distribution {kind!r} is unknown", hint=f"known: {', '.join(get_args(Distribution))}")
    if kind == "uniform" or density >= 1:
        return dict.fromkeys(shapes, min(density, 1.0))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        sharing = [name for name in shapes if name not in dense]
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in sharing)
        highest = max(raw[name] for name in sharing)
        if highest * scale <= 1:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense |= {name for name in sharing if raw[name] == highest}


def layer_counts(kind: Distribution, shapes: Shapes, density: float) -> dict[str, int]:
    """Weights that every layer keeps: whole numbers that add up to the density of all weights together.

    Densities are rounded down, and what that leaves over goes to the layers that lost most by it (our decision: RigL
    rounds every layer by itself and misses the total by some weights).

    Args:
        kind: ``uniform`` or ``erk``, see :func:`layer_densities`.
        shapes: layer → shape of its weight.
        density: share of all weights together.
    """
    densities = layer_densities(kind, shapes, density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    counts = {name: weights_at(sizes[name], densities[name]) for name in shapes}
    lost = {name: sizes[name] * densities[name] - counts[name] for name in shapes if counts[name] < sizes[name]}
    over = weights_at(sum(sizes.values()), density) - sum(counts.values())
    for name in sorted(lost, key=lambda name: -lost[name])[:over]:
        counts[name] += 1
    return counts
