"""Prices that need no measurement: multiply-accumulates, bytes of an engine file, bytes of memory."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from hwprune.budget import Axis, Cost, CostAxis, Product
from hwprune.footprint import Step, steps, weight_bytes
from hwprune.latency.layer import Layer
from hwprune.network import Network
from hwprune.targets import Target, runtime_for

Allowed = Mapping[str, tuple[int, ...]]


def macs_costs(network: Network, allowed: Allowed) -> Iterator[Cost]:
    """Multiply-accumulates, one cost per layer with weights or product of activations."""
    for layer in network.layers:
        yield from _costs(layer.multiplications, "macs", layer, allowed)


def size_costs(network: Network, allowed: Allowed, precision: str, graph_bytes: float) -> Iterator[Cost]:
    """Bytes of the engine file: weights, one cost per layer, and what the graph itself takes at any widths."""
    yield from _costs([Product(graph_bytes)], "size_bytes", None, allowed)
    yield from _weight_costs(network, allowed, precision, "size_bytes")


def memory_costs(network: Network, allowed: Allowed, target: Target, *, weights_in_flash: bool) -> Iterator[Cost]:
    """Bytes of memory while the network runs: weights, which are held always, and activations, step by step.

    A step that never holds more than another one, whatever the widths, is left out.
    """
    if not weights_in_flash:
        yield from _weight_costs(network, allowed, target.precision, "memory_bytes")
    present = {layer.name: layer.present for layer in network.layers}
    worst: list[tuple[Step, Counter[tuple[Axis, ...]]]] = []
    for step in steps(network, runtime_for(target), target.precision):
        form, always = _normal(step.live), ("", present[step.layer])  # what may vanish does not stand for another
        if not any(form <= other and present[one.layer] in always for one, other in worst):
            left = [(one, other) for one, other in worst if present[step.layer] or not other <= form]
            worst = [*left, (step, form)]
    layers = {layer.name: layer for layer in network.layers}
    for step, _ in worst:
        yield from _costs(step.live, "memory_bytes", layers[step.layer], allowed, step=step.layer)


def _weight_costs(network: Network, allowed: Allowed, precision: str, budget: str) -> Iterator[Cost]:
    layers = {layer.name: layer for layer in network.layers}
    for name, terms in weight_bytes(network, precision).items():
        # A weight's filters come first or last; a cost's output side is last.
        output = layers[name].output.axis
        turned = [Product(t.factor, tuple(sorted(t.axes, key=lambda axis: axis == output))) for t in terms]
        yield from _costs(turned, budget, layers[name], allowed)


def _normal(products: Iterable[Product]) -> Counter[tuple[Axis, ...]]:
    """A sum of products in normal form, axes → factor: sums of single sizes are taken apart, group by group."""
    form: Counter[tuple[Axis, ...]] = Counter()
    for product in products:
        if len(product.axes) == 1:
            (axis,) = product.axes
            form[()] += product.factor * axis.fixed  # type: ignore[assignment]
            for names, multiplier in axis.addends:
                alone = Axis(terms=((names[0], 1),)) if len(names) == 1 else Axis(products=((names, 1),))
                form[alone,] += product.factor * multiplier  # type: ignore[assignment]
        else:
            form[product.axes] += product.factor  # type: ignore[assignment]
    return form


def _costs(
    products: Iterable[Product], budget: str, layer: Layer | None, allowed: Allowed, *, step: str = ""
) -> Iterator[Cost]:
    """Costs whose sum is that of the products; of a layer, or of the network as a whole."""
    name, present = (layer.name, layer.present) if layer else ("graph", "")
    for axes, factor in _normal(products).items():
        if factor:
            sized = tuple(cost_axis(axis, allowed) for axis in axes)
            table = factor * math.prod(np.ix_(*(np.asarray(axis.sizes, np.float64) for axis in sized)))
            yield Cost(budget=budget, axes=sized, table=np.asarray(table), name=name, step=step, present=present)


def cost_axis(axis: Axis, allowed: Allowed) -> CostAxis:
    """An axis with every size that the allowed widths give it."""
    sizes = {axis.fixed}
    for names, multiplier in axis.addends:
        values = {multiplier * math.prod(widths) for widths in itertools.product(*(allowed[name] for name in names))}
        sizes = {size + value for size in sizes for value in values}
    return CostAxis(axis=axis, sizes=tuple(sorted(sizes)))
