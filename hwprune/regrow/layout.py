"""Where a weight keeps the inputs of an output neuron."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


@dataclass(frozen=True)
class Layout:
    """Which dimensions of a weight are outputs, and which inputs.

    A weight is (outputs, inputs, kernel…), a transposed one (inputs, outputs of a group, kernel…). An embedding is a
    linear layer over one-hot tokens: its neurons are the embedding's dimensions.

    Attributes:
        transposed: whether inputs come first.
        groups: of a transposed convolution; 1 otherwise.
        lookup: whether rows are looked up rather than multiplied.
    """

    transposed: bool = False
    groups: int = 1
    lookup: bool = False

    @classmethod
    def of(cls, module: nn.Module, name: str) -> Layout:
        """Layout of one parameter of a module; modules that torch does not have are read as (outputs, inputs, …)."""
        if name != "weight":
            return cls()
        if isinstance(module, _ConvTransposeNd):
            return cls(transposed=True, groups=module.groups)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return cls(transposed=True, lookup=True)
        return cls()

    def inputs(self, shape: tuple[int, ...]) -> int:
        """Input channels that one neuron reads."""
        return shape[0] // self.groups if self.transposed else shape[1]

    def rows(self, weight: Tensor) -> Tensor:
        """Shape (neurons, fan-in): one row per output neuron; the input channels of a kernel position lie together."""
        if self.transposed:
            weight = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        return weight.movedim(1, -1).flatten(1)

    def weight(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of :meth:`rows`: a tensor of the weight's shape, contiguous."""
        found = rows.view(len(rows), *shape[2:], self.inputs(shape)).movedim(-1, 1)
        if self.transposed:
            found = found.reshape(self.groups, -1, *found.shape[1:]).transpose(1, 2).flatten(0, 1)
        return found.contiguous()
