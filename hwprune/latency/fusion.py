"""Which layers a runtime runs inside the kernel of an earlier one."""

from __future__ import annotations

from collections.abc import Sequence

from hwprune.latency.layer import Layer
from hwprune.targets import Runtime


def fused_into(layers: Sequence[Layer], runtime: Runtime) -> dict[str, str]:
    """Chains of layers that run as one kernel.

    Args:
        layers: in execution order.
        runtime: knows what it fuses.

    Returns:
        name of a fused layer → name of the layer whose kernel it runs in; that one carries the cost of all.
    """
    earlier: dict[str, Layer] = {}
    fused: dict[str, str] = {}
    chains: dict[str, list[str]] = {}
    for layer in layers:
        # The branch computed last is the one a residual addition joins: the other operand is at hand by then.
        for producer in sorted((name for name in layer.follows if name in earlier), key=list(earlier).index)[::-1]:
            root = earlier[fused.get(producer, producer)]
            chain = chains.setdefault(root.name, [])
            rank = len(root.output.shape)
            if _adds_equal_shapes(layer) and runtime.fuses(layer.op, root.op, rank=rank, chain=chain):
                fused[layer.name] = root.name
                chain.append(layer.op)
                break
        earlier[layer.name] = layer
    return fused


def _adds_equal_shapes(layer: Layer) -> bool:
    """An addition fuses when it is that of two activations of one shape; other operators are not asked."""
    return layer.op != "add" or (len(layer.inputs) == 2 and layer.inputs[0].shape == layer.inputs[1].shape)
