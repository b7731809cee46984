"""What a network would take: the sum of its kernels, from a table alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hwprune.latency.entry import Floats
from hwprune.latency.fusion import fused_chains, fused_into
from hwprune.latency.key import channel_dim, costed_operands, sizes_of
from hwprune.latency.layer import Layer
from hwprune.latency.table import LatencyTable


@dataclass(frozen=True)
class LayerLatency:
    """One layer's part of a prediction.

    Attributes:
        name: of the layer.
        latency_ms: its share of the network's latency.
        source: ``measured``, ``interpolated``, ``fused into NAME`` (then ``latency_ms`` is 0, because NAME carries
            the cost of both), or ``removed``.
    """

    name: str
    latency_ms: float
    source: str


@dataclass(frozen=True)
class Prediction:
    """Predicted latency of a network.

    Attributes:
        latency_ms: of the whole network: ``overhead_ms`` and the sum of the layers.
        per_layer: in execution order.
        overhead_ms: what a call costs besides its layers.
        uncertainty: nine in ten networks that the table was tested on were predicted to within this part of their
            latency; None if the table was never tested.
    """

    latency_ms: float
    per_layer: tuple[LayerLatency, ...]
    overhead_ms: float = 0.0
    uncertainty: float | None = None

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """Where the latency is expected in nine of ten cases; None if the table was never tested."""
        if self.uncertainty is None:
            return None
        return self.latency_ms / (1 + self.uncertainty), self.latency_ms / max(1e-9, 1 - self.uncertainty)


def predict(layers: Sequence[Layer], table: LatencyTable, widths: Mapping[str, int] | None = None) -> Prediction:
    """Predict a network's latency.

    Args:
        layers: of a traced network, in execution order.
        table: of the target.
        widths: group name → channels kept, for all groups; None for the dense network.

    Raises:
        MissingLatencyError: the table does not cover a layer.
        InputError: a width is missing or leaves a layer without channels.
    """
    fused, chains = fused_into(layers, table.fuses), fused_chains(layers, table.fuses)
    per_layer = []
    for layer in layers:
        if widths is not None and not layer.is_there(widths):
            per_layer.append(LayerLatency(layer.name, 0.0, "removed"))
            continue
        if layer.name in fused:
            per_layer.append(LayerLatency(layer.name, 0.0, f"fused into {fused[layer.name]}"))
            continue
        found = table.lookup(layer, sizes_of(layer, widths), chains.get(layer.name, ()))
        source = "interpolated" if found.interpolated else "measured"
        per_layer.append(LayerLatency(layer.name, found.latency_ms * table.scale, source))
    alone = sum(layer.latency_ms for layer in per_layer)
    inside = table.curve.total(alone)
    per_layer = [replace(layer, latency_ms=layer.latency_ms * inside / alone) for layer in per_layer]
    total = table.overhead_ms + inside
    uncertainty = table.held_out.p90 if table.held_out else None
    return Prediction(total, tuple(per_layer), table.overhead_ms, uncertainty)


def layer_costs(
    layers: Sequence[Layer], table: LatencyTable
) -> Callable[[Layer, tuple[tuple[int, ...], ...]], Floats | None]:
    """Costs of layers over many channel counts at once, as a budget problem needs them.

    Args:
        layers: of a traced network, in execution order.
        table: of the target.

    Returns:
        a function of a layer and the ``positions`` of each operand that its cost depends on (input and output of a
        layer with weights, else the output). It gives predicted milliseconds over the product of these sizes, shape
        ``tuple(len(s) for s in sizes)``, or None for a layer that runs inside another's kernel. Sizes of an operand
        without a ``channel_dim`` are not read: one entry stands for it. They add up; the table's curve, which does not,
        is left out.
    """
    fused, chains = fused_into(layers, table.fuses), fused_chains(layers, table.fuses)

    def cost(layer: Layer, sizes: tuple[tuple[int, ...], ...]) -> Floats | None:
        if layer.name in fused:
            return None
        counts = []
        for (_, operand), given in zip(costed_operands(layer), sizes, strict=False):
            dim = channel_dim(layer, operand)
            assert dim is not None
            free = operand.channel_dim is not None
            counts.append(tuple(map(operand.channels, given)) if free else (operand.shape[dim],))
        values, _ = table.grid(layer, counts, chains.get(layer.name, ()))
        return (values * table.scale).reshape([len(given) for given in sizes])

    return cost
