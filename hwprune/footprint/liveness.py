"""Which activations a network holds at once, kernel by kernel, as functions of the widths.

A tensor lives from the kernel that writes it to the last one that reads it. Inputs are the caller's, who holds them
until the network returns; outputs stay to the end. What runs inside another layer's kernel has no tensor of its own,
and a view is the tensor that it looks at. An activation function overwrites its input if nobody reads that afterwards,
and a convolution that takes an addition along writes over the tensor that it adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hwprune.budget import Product
from hwprune.footprint.formats import format_of, itemsize
from hwprune.footprint.weights import folded_norms
from hwprune.latency.fusion import fused_into
from hwprune.latency.layer import Layer
from hwprune.network import Network
from hwprune.targets import Runtime

# What ONNX Runtime 1.31 lets write over its input (seen in its profile: the kernel requests no memory).
_OVERWRITES = frozenset(
    {"relu", "hardtanh", "clamp", "leaky_relu", "elu", "sigmoid", "tanh", "hardsigmoid", "softmax", "log_softmax"}
)
# Exported as several nodes, which hold one more tensor of the size of the result between them.
_SEVERAL_NODES = frozenset({"mish", "hardswish", "softplus"})


@dataclass(frozen=True)
class Step:
    """What is held while one kernel runs.

    Attributes:
        layer: name of the layer whose kernel it is.
        live: bytes of every tensor that is held.
    """

    layer: str
    live: tuple[Product, ...]

    def bytes_at(self, widths: Mapping[str, int]) -> float:
        """Bytes held at these widths (cuttable group → channels kept)."""
        return sum(product.at(widths) for product in self.live)


@dataclass
class _Buffer:
    """Memory that tensors of one size use one after the other.

    Attributes:
        size: in bytes.
        start: the kernel that writes it first.
        end: the last kernel that reads it.
        closer: the layer that reads it in that kernel; None if it is held to the end of the network.
    """

    size: Product
    start: int
    end: int
    closer: str | None


def steps(network: Network, runtime: Runtime, precision: str = "fp32") -> tuple[Step, ...]:
    """Every kernel, in execution order, with the tensors held while it runs.

    Args:
        network: a traced model.
        runtime: says what runs inside another layer's kernel.
        precision: of the engine; decides the bytes of an element.

    Raises:
        InputError: an unknown precision.
    """
    each = format_of(precision).activation
    inside = _kernel_of(network.layers, runtime)
    kernels = [layer for layer in network.layers if layer.name not in inside]
    place = {layer.name: index for index, layer in enumerate(kernels)}
    place.update({name: place[root] for name, root in inside.items()})
    overwriting = {
        layer.name
        for layer in network.layers
        if layer.op in _OVERWRITES or (layer.op == "add" and layer.name in inside)
    }
    buffers = _buffers(network, place, overwriting, each)
    return tuple(
        Step(
            kernel.name,
            (*(b.size for b in buffers if b.start <= index <= b.end), *_workspace(kernel, each)),
        )
        for index, kernel in enumerate(kernels)
    )


def _kernel_of(layers: Sequence[Layer], runtime: Runtime) -> dict[str, str]:
    """Layer that runs inside another's kernel → that one."""
    fused = {**folded_norms(layers), **fused_into(layers, runtime)}
    return {name: fused.get(root, root) for name, root in fused.items()}


def _buffers(network: Network, place: Mapping[str, int], overwriting: set[str], each: int) -> list[_Buffer]:
    """The memory of every activation; ``place`` says in which kernel a layer runs."""
    found: list[_Buffer] = []
    last = max(place.values())
    for tensor in network.activations:
        size = tensor.elements.times(itemsize(tensor.dtype, each))
        if tensor.maker is None:
            found.append(_Buffer(size, 0, last, None))
            continue
        start = place[tensor.maker]
        end, closer = last, None
        if not tensor.output:
            end = max(place[reader] for reader in tensor.readers)
            closing = [reader for reader in tensor.readers if place[reader] == end]
            if end == start:
                continue  # it never leaves the kernel that writes it
            closer = closing[0] if len(closing) == 1 else None
        free = (b for b in found if b.end == start and b.size == size and b.closer in overwriting)
        reused = next(free, None)
        if reused is None:
            found.append(_Buffer(size, start, end, closer))
        else:
            reused.end, reused.closer = end, closer
    return found


def _workspace(kernel: Layer, each: int) -> Iterator[Product]:
    """What a kernel holds besides its inputs and results."""
    if kernel.op in _SEVERAL_NODES:
        yield Product.of(kernel.output.dims, each)
    if "scaled_dot_product" in kernel.op and len(kernel.inputs) >= 2:
        queries, keys = kernel.inputs[:2]
        yield Product.of((*queries.dims[:-1], keys.dims[-2]), each)  # how much each query attends to each key
