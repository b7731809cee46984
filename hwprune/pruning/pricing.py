"""What every choice of widths costs: the bridge from a traced network to a budget problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem, rank, total
from hwprune.errors import BudgetError, InfeasibleError
from hwprune.latency import LatencyTable, Operand, allowed_widths, group_step, layer_costs
from hwprune.latency.key import costed_operands
from hwprune.network import Network
from hwprune.pruning.analytic import cost_axis, macs_costs, memory_costs, size_costs
from hwprune.targets import Target


@dataclass(frozen=True)
class Pricing:
    """Allowed widths of every cuttable group, and the cost of every layer over them.

    Attributes:
        metric: ``latency_ms``, ``size_bytes``, ``memory_bytes`` or ``macs``.
        widths: group name → allowed widths, ascending, the dense width last.
        costs: one array per layer and metric that costs anything.
        caps: other metric → limit that must hold as well.
        blocks: name → groups of each block that may be removed.
    """

    metric: str
    widths: dict[str, tuple[int, ...]]
    costs: tuple[Cost, ...]
    caps: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def problem(
        self,
        scores: Mapping[str, NDArray[np.float64]],
        kept: Mapping[str, list[int]],
        limit: float,
        *,
        caps: Mapping[str, float] | None = None,
        held: Mapping[str, list[int]] | None = None,
    ) -> Problem:
        """The budget problem at these saliencies.

        Args:
            scores: group name → saliency of every channel, shape (channels,).
            kept: group name → channels that are still there; only these can be kept. A group without any is not part
                of the problem: its block was removed.
            limit: the budget, in the unit of ``metric``.
            caps: limits of the other metrics, instead of their own.
            held: group name → channels, of those still there, that stay in any case. Their block stays, too.
        """
        choices: dict[str, Choices] = {}
        held = {group: channels for group, channels in (held or {}).items() if channels}
        for group, allowed in self.widths.items():
            if alive := kept[group]:
                staying = held.get(group, [])
                others = [channel for channel in alive if channel not in set(staying)]
                between = (width for width in allowed if max(1, len(staying)) <= width < len(alive))
                widths = sorted({*between, len(alive), len(staying) or len(alive)})
                choices[group] = rank(np.asarray(scores[group])[others], widths, held=len(staying))
        return Problem(
            groups=choices,
            costs=tuple(cost for cost in self.costs if not cost.present or cost.present in choices),
            budgets={self.metric: limit, **(self.caps if caps is None else caps)},
            blocks={name: groups for name, groups in self.blocks.items() if groups[0] in choices.keys() - held.keys()},
        )

    def value(self, widths: Mapping[str, int], metric: str | None = None) -> float:
        """Predicted cost of the network at these widths.

        Args:
            widths: group name → channels kept.
            metric: of which; the first, if not given.
        """
        return float(total((cost for cost in self.costs if cost.budget == (metric or self.metric)), widths))

    def check_reach(self, limit: float) -> None:
        """Refuse a budget below what any allowed widths cost.

        Raises:
            InputError: the limit is not a positive number.
            InfeasibleError: says the least.
        """
        channels = self.dense
        nothing = {group: np.zeros(count) for group, count in channels.items()}
        problem = self.problem(nothing, {group: list(range(count)) for group, count in channels.items()}, limit)
        for metric, least in problem.least().items():
            if least > problem.budgets[metric]:
                raise InfeasibleError(
                    f"{metric} cannot be brought to {problem.budgets[metric]:.6g}: the least that any widths cost is "
                    f"{least:.6g}",
                    least={metric: least},
                    hint=f"give a budget of at least {least:.6g}, or a model with more that can be cut",
                )

    @property
    def dense(self) -> dict[str, int]:
        """The widths before anything is cut."""
        return {group: widths[-1] for group, widths in self.widths.items()}

    @property
    def smallest(self) -> dict[str, int]:
        """The least allowed widths, without the blocks that may be removed."""
        gone = {group for groups in self.blocks.values() for group in groups}
        return {group: 0 if group in gone else widths[0] for group, widths in self.widths.items()}


def price(
    network: Network,
    metric: str,
    *,
    table: LatencyTable | None = None,
    step: int = 1,
    target: Target | None = None,
    graph_bytes: float = 0.0,
    weights_in_flash: bool = False,
    caps: Mapping[str, float] | None = None,
    blocks: bool = False,
) -> Pricing:
    """Price every layer of a network over the allowed widths of its groups.

    Args:
        network: a traced model.
        metric: ``latency_ms`` (needs ``table``), ``size_bytes``, ``memory_bytes`` or ``macs``.
        table: latencies of the target; its ``channel_step`` decides which widths are offered, because
            counts between two steps cost as much as the next step.
        step: channel step where there is no table.
        target: its precision decides what an element takes, its runtime what activations are held; float32 on
            ONNX Runtime if not given.
        graph_bytes: of an engine file besides its weights.
        weights_in_flash: memory holds activations alone.
        caps: other metric → limit that must hold as well; they are priced over the same widths.
        blocks: whether residual blocks may be removed.

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
    allowed = {
        g.name: tuple(w for w in allowed_widths(g.channels, group_step(step, g.positions)) if w >= g.least)
        for g in network.cuttable
    }
    target = target or Target(name="any")
    costs: list[Cost] = []
    for one in (metric, *(caps or {})):
        if one == "latency_ms":
            assert table is not None, "a latency budget needs a latency table"
            costs += _latency_costs(network, table, allowed)
        elif one == "size_bytes":
            costs += size_costs(network, allowed, target.precision, graph_bytes)
        elif one == "memory_bytes":
            costs += memory_costs(network, allowed, target, weights_in_flash=weights_in_flash)
        else:
            costs += macs_costs(network, allowed)
    removable = {block.name: block.groups for block in network.blocks if blocks}
    return Pricing(metric=metric, widths=allowed, costs=tuple(costs), caps=dict(caps or {}), blocks=removable)


def _latency_costs(network: Network, table: LatencyTable, allowed: Mapping[str, tuple[int, ...]]) -> Iterator[Cost]:
    frozen = {group.name: group.channels for group in network.frozen}
    cost_of = layer_costs(network.layers, table)
    if table.overhead_ms:
        once = (CostAxis(axis=Axis(fixed=1), sizes=(1,)),)
        yield Cost(budget="latency_ms", axes=once, table=np.array([table.overhead_ms]), name="call")
    for layer in network.layers:
        axes = [_operand_axis(operand, allowed, frozen) for _, operand in costed_operands(layer)]
        table_of_layer = cost_of(layer, tuple(axis.sizes for axis in axes))
        if table_of_layer is not None:
            yield Cost(
                budget="latency_ms", axes=tuple(axes), table=table_of_layer, name=layer.name, present=layer.present
            )


def _operand_axis(operand: Operand, allowed: Mapping[str, tuple[int, ...]], frozen: Mapping[str, int]) -> CostAxis:
    if operand.channel_dim is None:
        return CostAxis(axis=Axis(fixed=1), sizes=(1,))
    return cost_axis(operand.positions.settled(frozen), allowed)
