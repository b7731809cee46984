"""What every choice of widths costs: the bridge from a traced network to a budget problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem, rank
from hwprune.errors import BudgetError, InfeasibleError
from hwprune.latency import LatencyTable, Layer, Operand, allowed_widths, layer_costs
from hwprune.latency.key import costed_operands
from hwprune.network import Network

BYTES_PER_PARAMETER = 4
LayerCost = Callable[[Layer, tuple[tuple[int, ...], ...]], NDArray[np.float64] | None]


@dataclass(frozen=True)
class Pricing:
    """Allowed widths of every cuttable group, and the cost of every layer over them.

    Attributes:
        metric: ``latency_ms``, ``size_bytes`` or ``macs``.
        widths: group name → allowed widths, ascending, the dense width last.
        costs: one array per layer that costs anything.
    """

    metric: str
    widths: dict[str, tuple[int, ...]]
    costs: tuple[Cost, ...]

    def problem(
        self, scores: Mapping[str, NDArray[np.float64]], kept: Mapping[str, list[int]], limit: float
    ) -> Problem:
        """The budget problem at these saliencies.

        Args:
            scores: group name → saliency of every channel, shape (channels,).
            kept: group name → channels that are still there; only these can be kept.
            limit: the budget, in the unit of ``metric``.
        """
        choices: dict[str, Choices] = {}
        for group, allowed in self.widths.items():
            alive = kept[group]
            widths = (*(width for width in allowed if width < len(alive)), len(alive))
            choices[group] = rank(np.asarray(scores[group])[alive], widths)
        return Problem(groups=choices, costs=self.costs, budgets={self.metric: limit})

    def value(self, widths: Mapping[str, int]) -> float:
        """Predicted cost of the network at these widths, in the unit of ``metric``."""
        return sum(cost.at(widths) for cost in self.costs)

    def check_reach(self, limit: float) -> None:
        """Refuse a budget below what any allowed widths cost.

        Raises:
            InputError: the limit is not a positive number.
            InfeasibleError: says the least.
        """
        channels = self.dense
        nothing = {group: np.zeros(count) for group, count in channels.items()}
        problem = self.problem(nothing, {group: list(range(count)) for group, count in channels.items()}, limit)
        least = problem.least()[self.metric]
        if least > limit:
            raise InfeasibleError(
                f"{self.metric} cannot be brought to {limit:.6g}: the least that any widths cost is {least:.6g}",
                least={self.metric: least},
                hint=f"give a budget of at least {least:.6g}, or a model with more that can be cut",
            )

    @property
    def dense(self) -> dict[str, int]:
        """The widths before anything is cut."""
        return {group: widths[-1] for group, widths in self.widths.items()}

    @property
    def smallest(self) -> dict[str, int]:
        """The least allowed widths."""
        return {group: widths[0] for group, widths in self.widths.items()}


def price(network: Network, metric: str, *, table: LatencyTable | None = None, step: int = 1) -> Pricing:
    """Price every layer of a network over the allowed widths of its groups.

    Args:
        network: a traced model.
        metric: ``latency_ms`` (needs ``table``), ``size_bytes`` (float32 weights) or ``macs``.
        table: latencies of the target; its ``channel_step`` decides which widths are offered, because
            counts between two steps cost as much as the next step.
        step: channel step where there is no table.

    Raises:
        BudgetError: nothing in the network can be cut.
        MissingLatencyError: the table lacks a layer.
    """
    if not network.cuttable:
        raise BudgetError(
            "nothing in this model can be cut: " + "; ".join(f"{g.name}: {g.frozen}" for g in network.frozen),
            hint="only channels that no output, fixed size or unknown operator depends on can be cut",
        )
    step = table.channel_step if table is not None else step
    allowed = {group.name: allowed_widths(group.channels, step) for group in network.cuttable}
    cost_of: LayerCost
    if metric == "latency_ms":
        assert table is not None, "a latency budget needs a latency table"
        cost_of = layer_costs(network.layers, table)
    else:
        cost_of = _analytic(metric)
    frozen = {group.name: group.channels for group in network.frozen}
    costs = []
    for layer in network.layers:
        axes = [_cost_axis(operand, allowed, frozen) for _, operand in costed_operands(layer)]
        table_of_layer = cost_of(layer, tuple(axis.sizes for axis in axes))
        if table_of_layer is not None:
            costs.append(Cost(budget=metric, axes=tuple(axes), table=table_of_layer, name=layer.name))
    return Pricing(metric=metric, widths=allowed, costs=tuple(costs))


def _cost_axis(operand: Operand, allowed: Mapping[str, tuple[int, ...]], frozen: Mapping[str, int]) -> CostAxis:
    if operand.channel_dim is None:
        return CostAxis(axis=Axis(fixed=1), sizes=(1,))
    fixed = operand.axis.fixed + sum(m * frozen[g] for g, m in operand.axis.terms if g in frozen)
    terms = tuple((g, m) for g, m in operand.axis.terms if g not in frozen)
    sizes = {fixed}
    for group, multiplier in terms:
        sizes = {size + multiplier * width for size in sizes for width in allowed[group]}
    return CostAxis(axis=Axis(fixed=fixed, terms=terms), sizes=tuple(sorted(sizes)))


def _analytic(metric: str) -> LayerCost:
    """Cost from the layer's own size: bytes of float32 weights, or multiply-accumulates."""

    def cost(layer: Layer, sizes: tuple[tuple[int, ...], ...]) -> NDArray[np.float64] | None:
        bias = layer.biases if metric == "size_bytes" else 0
        dense = layer.macs if metric == "macs" else layer.parameters - bias
        if not dense and not bias:
            return None
        operands = [operand for _, operand in costed_operands(layer)]
        ratios = [
            np.asarray(s, dtype=np.float64) / (1 if o.channel_dim is None else o.shape[o.channel_dim])
            for s, o in zip(sizes, operands, strict=True)
        ]
        values = np.asarray(dense * math.prod(np.ix_(*ratios)), dtype=np.float64)
        if bias:
            values = values + bias * ratios[-1]
        return values * (BYTES_PER_PARAMETER if metric == "size_bytes" else 1)

    return cost
