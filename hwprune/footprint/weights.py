"""Bytes of the weights that an exported engine stores, layer by layer, as functions of the widths.

Counted is what an ONNX file holds in its initializers: weights, biases, normalisations, position codes, and what is
computed from such tensors alone. A batch norm right behind a convolution or a linear layer is folded into it, which
leaves that layer with a bias. Not counted are the graph itself, the few numbers that it needs as shapes and scales, and
the ones and zeros that stand in for the scale and bias of a norm without them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hwprune.budget import Axis, Product
from hwprune.footprint.formats import Format, format_of, itemsize
from hwprune.latency.key import WEIGHT_OPS, channel_dim
from hwprune.latency.layer import Layer
from hwprune.network import Network


def weight_bytes(network: Network, precision: str = "fp32") -> dict[str, tuple[Product, ...]]:
    """What every layer stores: layer's name → terms that sum to its bytes.

    A tensor that several layers read belongs to the first of them.

    Args:
        network: a traced model.
        precision: of the engine: ``fp32``, ``fp16`` or ``int8``.

    Raises:
        InputError: an unknown precision.
    """
    form, layers = format_of(precision), {layer.name: layer for layer in network.layers}
    folded = folded_norms(network.layers)
    found: dict[str, list[Product]] = defaultdict(list)
    for tensor in network.stored:
        if tensor.layer is None or tensor.layer in folded:
            continue
        layer, rank = layers[tensor.layer], len(tensor.dims)
        if layer.op not in WEIGHT_OPS or "float" not in tensor.dtype:
            each = form.other
        elif rank > 1:
            each = form.weight
            found[layer.name].append(Product.of([_channels(layer)], form.weight_channel))
        else:
            each = form.bias
        found[layer.name].append(tensor.elements.times(itemsize(tensor.dtype, each)))
    for name in dict.fromkeys(folded.values()):
        if not layers[name].attributes["bias"]:
            found[name].append(Product.of([_channels(layers[name])], form.bias))
    for layer in network.layers:
        if layer.op == "group_norm":
            found[layer.name].append(_norm_groups(layer, form))
    return {name: tuple(term for term in terms if term.factor) for name, terms in found.items()}


def folded_norms(layers: Sequence[Layer]) -> dict[str, str]:
    """Batch norm → the layer that the exporter folds it into."""
    weighty = [layer.name for layer in layers if layer.op in WEIGHT_OPS]
    shared = {name.partition("#")[0] for name in weighty if "#" in name}  # weights of several uses stay as they are
    root = {name: name for name in weighty if name.partition("#")[0] not in shared}
    for layer in layers:
        before = layer.follows[0] if layer.follows else ""
        if layer.op == "batch_norm" and before in root and not _normalises_by_input(layer):
            root[layer.name] = root[before]
    return {name: into for name, into in root.items() if name != into}


def _normalises_by_input(layer: Layer) -> bool:
    """Whether it uses the statistics of its input: an instance norm, which torch writes as a batch norm."""
    assert layer.call is not None
    return any(argument is True for argument in layer.call["args"][5:6])


def _channels(layer: Layer) -> Axis:
    dim = channel_dim(layer, layer.output)
    assert dim is not None, f"{layer.name} has weights but no output channels"
    return layer.output.axis if layer.output.channel_dim is not None else Axis(layer.output.shape[dim])


def _norm_groups(layer: Layer, form: Format) -> Product:
    """An exported group norm is an instance norm with a scale and a bias per group, before the per-channel ones."""
    assert layer.call is not None
    channels, groups = layer.call["args"][4], layer.call["args"][6]
    return Product.of([layer.output.axis], 2 * form.other * groups / channels)
