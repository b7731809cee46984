"""From a recording to the tensors that take memory: what the model stores, and what flows between its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hwprune.latency.layer import Layer
from hwprune.network.dimensions import Dimensions
from hwprune.network.labels import Labelled
from hwprune.network.layers import runs_kernel, views_in
from hwprune.network.network import Activation, StoredTensor
from hwprune.network.recorded import Call, Recording


class Constants:
    """What layers read that does not depend on the input.

    Args:
        recording: of one forward pass.
        labelled: its values' labels.
        dimensions: the sizes of its values.
        layers: made from the same recording.
    """

    def __init__(
        self, recording: Recording, labelled: Sequence[Labelled], dimensions: Dimensions, layers: Sequence[Layer]
    ) -> None:
        self._values, self._dimensions = recording.values, dimensions
        self._state = {v.name: i for i, v in enumerate(recording.values) if v.source in ("parameter", "buffer")}
        self._names: dict[int, frozenset[str]] = {}  # value → the parameters and buffers it was made from
        for index, value in enumerate(recording.values):
            self._names[index] = frozenset({value.name} - {""})
        for call in recording.calls:
            names = frozenset[str]().union(*(self._names[ref.index] for ref in call.reads))
            self._names.update({ref.index: names for ref in call.outputs if labelled[ref.index].constant})
        self._reads = [
            (ref.index, layer)
            for call, layer in _kernels(recording, labelled, layers)
            for ref in call.reads
            if labelled[ref.index].constant and self._names[ref.index]
        ]

    def parameters(self) -> tuple[StoredTensor, ...]:
        """Every parameter of the model, as it is."""
        reader: dict[str, str] = {}
        for index, layer in self._reads:
            for name in self._names[index]:
                reader.setdefault(name, layer)
        learned = [name for name, index in self._state.items() if self._values[index].source == "parameter"]
        return tuple(self._tensor(self._state[name], name, reader.get(name)) for name in learned)

    def stored(self) -> tuple[StoredTensor, ...]:
        """What an exported graph stores, once each: parameters and buffers as layers read them.

        What is computed from them is computed at export, and stored in their place; a view is what it looks at.
        """
        found: dict[int, StoredTensor] = {}
        for index, layer in self._reads:
            name = ", ".join(sorted(self._names[index]))
            whole = self._state.get(name, index)
            if math.prod(self._values[whole].shape) == math.prod(self._values[index].shape):
                index = whole
            found.setdefault(index, self._tensor(index, name, layer))
        return tuple(found.values())

    def _tensor(self, index: int, name: str, layer: str | None) -> StoredTensor:
        dims = self._dimensions.all_of(index)
        return StoredTensor(dims=dims, dtype=self._values[index].dtype, name=name, layer=layer)


def activations(
    recording: Recording, labelled: Sequence[Labelled], dimensions: Dimensions, layers: Sequence[Layer]
) -> tuple[Activation, ...]:
    """Every tensor that a layer writes and something reads, and the inputs; arguments as :class:`Constants`."""
    origin = views_in(recording)
    readers: dict[int, list[str]] = {}
    makers: dict[int, str] = {}
    for call, name in _kernels(recording, labelled, layers):
        for ref in call.reads:
            seen = readers.setdefault(origin.get(ref.index, ref.index), [])
            if name not in seen:
                seen.append(name)
        makers.update({ref.index: name for ref in call.outputs})
    outputs = {origin.get(ref.index, ref.index) for ref in recording.outputs}
    found = []
    for index, value in enumerate(recording.values):
        if (index in makers or value.source == "input") and (index in readers or index in outputs):
            found.append(
                Activation(
                    dims=dimensions.all_of(index),
                    dtype=value.dtype,
                    maker=makers.get(index),
                    readers=tuple(readers.get(index, ())),
                    output=index in outputs,
                )
            )
    return tuple(found)


def _kernels(recording: Recording, labelled: Sequence[Labelled], layers: Sequence[Layer]) -> Iterator[tuple[Call, str]]:
    """The calls that became layers, each with its layer's name."""
    calls = [call for call in recording.calls if runs_kernel(call, labelled)]
    yield from zip(calls, (layer.name for layer in layers), strict=True)
