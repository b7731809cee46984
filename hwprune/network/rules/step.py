"""One operator as a rule sees it, and the few moves every rule is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.utils import _pytree

from hwprune.network.labels import Ids, Labelled, Labels
from hwprune.network.recorded import Call

Dims = dict[int, Ids]
Rule = Callable[["Step"], list[Dims]]
"""From an operator's arguments to the labelled dimensions of each of its outputs. A rule may return fewer
entries than there are outputs; the rest carry no labels."""


class Step:
    """An operator whose tensor arguments are :class:`Labelled`.

    Args:
        call: the recorded operator.
        arguments: its arguments by schema name, tensors replaced.
        shapes: of its outputs.
        labels: where ties and freezes go.
        part: which part of a dimension that is split carries the channels: 0 the last, 1 the one before, 2 the first.
        told: attributes of the module hold the sizes of unequal parts.
        norm: the first parameter of the module, if that may be a norm that is written out.

    Attributes:
        splits: ids of dimensions that were split where either part could have carried the channels.
    """

    def __init__(
        self,
        call: Call,
        arguments: dict[str, Any],
        shapes: Sequence[tuple[int, ...]],
        labels: Labels,
        *,
        part: int = 0,
        told: bool = False,
        norm: str | None = None,
    ) -> None:
        self.call = call
        self.arguments = arguments
        self.shapes = tuple(shapes)
        self.labels = labels
        self.part, self.told, self.norm = part, told, norm
        self.splits: list[Ids] = []

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def tensors(self) -> list[Labelled]:
        """Every tensor argument, in order."""
        return [leaf for leaf in _pytree.tree_leaves(self.arguments) if isinstance(leaf, Labelled)]

    @property
    def source(self) -> Labelled:
        """The first tensor argument."""
        return self.tensors[0]

    def dim(self, name: str = "dim") -> int:
        """A dimension of the first tensor, counted from the front."""
        dim: int = self[name]
        return dim % max(1, len(self.source.shape))

    def freeze(self, ids: Ids | None, why: str) -> None:
        """Freeze with a reason that names the operator and its place."""
        if ids is not None:
            self.labels.freeze(ids, f"{why} ({self.call.place})")

    def freeze_dims(self, tensor: Labelled, dims: Iterable[int], why: str) -> None:
        """Freeze whatever is labelled along these dimensions."""
        for dim in dims:
            self.freeze(tensor.dims.get(dim), why)

    def combine(self, parts: Sequence[tuple[Labelled, int]], size: int) -> Ids | None:
        """The identity of one output dimension to which several tensors contribute element by element.

        Args:
            parts: a tensor and its dimension that is aligned with the output's.
            size: of the output dimension; a part of size 1 is broadcast.

        Returns:
            The ids, tied across parts; None if the dimension carries none.
        """
        labelled: list[Labelled] = []
        found: list[Ids] = []
        fixed: list[Labelled] = []
        for tensor, dim in parts:
            ids = tensor.dims.get(dim)
            if tensor.shape[dim] != size:
                self.freeze(ids, "one channel is spread over several")
            elif ids is not None:
                labelled.append(tensor)
                found.append(ids)
            else:
                fixed.append(tensor)
        if fixed:
            for ids in found:
                self.freeze(ids, f"combined with {fixed[0].origin}, whose size is fixed")
            if all(tensor.constant for tensor in labelled):
                return None
        for ids in found[1:]:
            self.labels.tie(found[0], ids)
        return found[0] if found else None

    def contract(self, first: tuple[Labelled, int], second: tuple[Labelled, int]) -> None:
        """Two dimensions that are summed over together."""
        ids = [tensor.dims.get(dim) for tensor, dim in (first, second)]
        if ids[0] is not None and ids[1] is not None:
            self.labels.tie(ids[0], ids[1])
            return
        self.freeze(ids[0], f"multiplied with {second[0].origin}, whose size is fixed")
        self.freeze(ids[1], f"reads {first[0].origin}, whose size is fixed")

    def multiply(self, first: tuple[Labelled, int], second: tuple[Labelled, int]) -> None:
        """Two dimensions of activations that are multiplied and summed over.

        The terms that a removed channel leaves out need not be zero in the masked network; a trial has to tell.
        """
        self.labels.multiplied += [ids for tensor, _ in (first, second) for ids in tensor.dims.values()]
        if self.labels.paired:
            self.contract(first, second)
            return
        for tensor, dim in (first, second):
            self.freeze_dims(tensor, [dim], "two activations are multiplied and summed over this dimension")


def unknown(step: Step) -> list[Dims]:
    """An operator without a rule: everything it reads is frozen, what it writes has a fixed size."""
    for tensor in step.tensors:
        step.freeze_dims(tensor, tensor.dims, f"hwprune has no rule for the operator {step.call.target}")
        if tensor.constant and len(tensor.shape) > 1 and 0 in tensor.dims:
            step.labels.mark(tensor.dims[0], "out")
    return []


def created(step: Step) -> list[Dims]:
    """A new tensor that takes only its type from its arguments: nothing flows."""
    return []
