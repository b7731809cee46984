"""Which layers a runtime runs inside the kernel of an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwprune.latency.layer import Layer
from hwprune.targets import Runtime


@dataclass(frozen=True)
class Question:
    """Whether an operator runs inside the kernel of an earlier layer.

    Attributes:
        op: the operator; ``/broadcast`` is appended where an arithmetic one does not join two activations of one shape.
        into: ``Layer.op`` of the layer whose kernel it may run in.
        rank: dimensions of that layer's output, batch included.
        chain: operators that run inside that kernel already, in order.
    """

    op: str
    into: str
    rank: int
    chain: tuple[str, ...] = ()


Fuses = Callable[[Question], bool]


@dataclass(frozen=True)
class FusionRules:
    """What was observed to fuse on a target; a runtime's own knowledge where nothing was observed.

    Attributes:
        observed: answers that profiling found.
        runtime: answers the rest.
    """

    runtime: Runtime
    observed: Mapping[Question, bool] = field(default_factory=dict)

    def __call__(self, question: Question) -> bool:
        """Whether it fuses."""
        if question in self.observed:
            return self.observed[question]
        if question.op.endswith("/broadcast"):
            return False
        return self.runtime.fuses(question.op, question.into, rank=question.rank, chain=question.chain)

    def to_list(self) -> list[dict[str, Any]]:
        """What was observed, JSON-able."""
        return [{**vars(question), "chain": list(question.chain), "fuses": yes} for question, yes in self._sorted()]

    def _sorted(self) -> list[tuple[Question, bool]]:
        return sorted(self.observed.items(), key=lambda item: (item[0].into, item[0].chain, item[0].op, item[0].rank))


def observe(layers: Sequence[Layer], with_kernel: Collection[str]) -> dict[Question, bool]:
    """The rules that explain which layers had a kernel of their own.

    A question that was answered both ways is answered with no: an operator counted apart has an entry of its own.

    Args:
        layers: in execution order.
        with_kernel: names of the layers that a kernel of their own was seen for.
    """
    votes: dict[Question, bool] = {}

    def vote(layer: Layer, question: Question) -> bool:
        fused = layer.name not in with_kernel
        votes[question] = votes.get(question, True) and fused
        return fused

    _walk(layers, vote)
    return votes


def fused_into(layers: Sequence[Layer], fuses: Fuses | Runtime) -> dict[str, str]:
    """Chains of layers that run as one kernel.

    Args:
        layers: in execution order.
        fuses: knows what the runtime fuses.

    Returns:
        name of a fused layer → name of the layer whose kernel it runs in; that one carries the cost of all.
    """
    rules = FusionRules(fuses) if isinstance(fuses, Runtime) else fuses
    return _walk(layers, lambda _, question: rules(question))[0]


def fused_chains(layers: Sequence[Layer], fuses: Fuses) -> dict[str, tuple[str, ...]]:
    """What runs inside each layer's kernel besides itself, without batch norm: name → operators, in order."""
    _, chains = _walk(layers, lambda _, question: fuses(question))
    return {name: tuple(op for op in chain if op != "batch_norm") for name, chain in chains.items()}


def _walk(
    layers: Sequence[Layer], decide: Callable[[Layer, Question], bool]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    earlier: dict[str, Layer] = {}
    position = {layer.name: index for index, layer in enumerate(layers)}
    fused: dict[str, str] = {}
    chains: dict[str, list[str]] = {}
    for layer in layers:
        # The branch computed last is the one a residual addition joins: the other operand is at hand by then.
        for producer in sorted((name for name in layer.follows if name in earlier), key=position.__getitem__)[::-1]:
            root = earlier[fused.get(producer, producer)]
            chain = chains.setdefault(root.name, [])
            if decide(layer, Question(_named(layer), root.op, len(root.output.shape), tuple(chain))):
                fused[layer.name] = root.name
                chain.append(layer.op)
                break
        earlier[layer.name] = layer
    return fused, chains


def _named(layer: Layer) -> str:
    """Arithmetic fuses when it joins two activations of one shape; otherwise it is another thing."""
    if layer.op not in ("add", "sub", "mul", "div"):
        return layer.op
    same = len(layer.inputs) == 2 and layer.inputs[0].shape == layer.inputs[1].shape
    return layer.op if same else f"{layer.op}/broadcast"
