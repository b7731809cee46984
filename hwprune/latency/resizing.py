"""An operator without weights at another channel count: its input shapes and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hwprune.latency.layer import Layer

CHANNELS = "channels"
Arguments = list[Any]


def call_without_counts(layer: Layer) -> dict[str, Any]:
    """A call with None for every argument that is a number of channels, so that it is the same at all widths."""
    call = _call(layer)
    args = list(call["args"])
    if _counts_channels(layer):
        for position in _COUNTS[layer.op]:
            if position < len(args):
                args[position] = None
    if layer.op == "constant_pad_nd":
        args[1] = _with_pads(layer, [None, None])
    return {"target": _functional(call["target"]), "args": _bare(args), "kwargs": _bare(call["kwargs"])}


def resized_call(layer: Layer, size: int | None) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """Input shapes and call of an operator whose output has ``size`` channels.

    Inputs and arguments that count channels shrink in proportion; the inputs of a concatenation add up to its output.

    Args:
        layer: an operator without weights.
        size: channels of the (first) output; None where it has none.

    Returns:
        one shape per input, and the call.
    """
    call = _call(layer)
    shapes, args = [operand.shape for operand in layer.inputs], list(call["args"])
    if size is not None and layer.output.channel_dim is not None:
        counts = _input_counts(layer, size)
        if _counts_channels(layer):
            counts[0], args = _RESIZE[layer.op](layer, args, counts[0], size)
        for index, count in counts.items():
            dim = layer.inputs[index].channel_dim
            shapes[index] = tuple(count if place == dim else length for place, length in enumerate(shapes[index]))
        args = _resize_constants(args, size)
    return shapes, {"target": _functional(call["target"]), "args": args, "kwargs": call["kwargs"]}


def _call(layer: Layer) -> dict[str, Any]:
    assert layer.call is not None, f"{layer.name} ({layer.op}) is neither a layer with weights nor a call"
    return layer.call


def _functional(target: str) -> str:
    """``aten.relu_.default`` costs what ``aten.relu.default`` costs: an exported graph knows no in-place."""
    namespace, name, overload = target.split(".")
    return f"{namespace}.{name if name.endswith('__') else name.removesuffix('_')}.{overload}"


def _input_counts(layer: Layer, size: int) -> dict[int, int]:
    """Input index → channels, for every input that has channels."""
    assert layer.output.channel_dim is not None
    dense = layer.output.shape[layer.output.channel_dim]
    counts = {index: _channels(layer, index) for index, o in enumerate(layer.inputs) if o.channel_dim is not None}
    if layer.op == "cat" and sum(counts.values()) == dense:
        return dict(zip(counts, _shares(list(counts.values()), size), strict=True))
    return {index: max(1, round(count * size / dense)) for index, count in counts.items()}


def _channels(layer: Layer, index: int) -> int:
    operand = layer.inputs[index]
    return operand.shape[operand.channel_dim]  # type: ignore[index]


def _shares(counts: Sequence[int], size: int) -> list[int]:
    """Split ``size`` in proportion to ``counts``, at least 1 each; the sum is exact where that is possible."""
    shares: list[int] = []
    for position in range(len(counts)):
        upto = round(size * sum(counts[: position + 1]) / sum(counts))
        shares.append(max(1, upto - sum(shares)))
    return shares


def _counts_channels(layer: Layer) -> bool:
    """Whether some arguments of this call count channels of its first input."""
    if layer.op not in _COUNTS or not layer.inputs or layer.inputs[0].channel_dim is None:
        return False
    rank, dim = len(layer.inputs[0].shape), layer.inputs[0].channel_dim
    args = _call(layer)["args"]
    if layer.op == "constant_pad_nd":
        return 2 * (rank - dim) <= len(args[1])
    if layer.op == "group_norm":
        return True
    position = _DIMENSION[layer.op]
    return bool((args[position] if position < len(args) else 0) % rank == dim)


# The positions of arguments that count channels, and of the argument that says along which dimension.
_COUNTS: dict[str, tuple[int, ...]] = {
    "slice": (2, 3),  # slice(input, dim, start, end, step)
    "split": (1,),  # split(input, split_size, dim)
    "split_with_sizes": (1,),
    "group_norm": (4, 6),  # native_group_norm(input, weight, bias, N, C, HxW, group, eps)
    "constant_pad_nd": (),  # constant_pad_nd(input, pad, value): only some of the entries of ``pad``
}
_DIMENSION = {"slice": 1, "split": 2, "split_with_sizes": 2}

Resized = tuple[int, Arguments]


def _slice(layer: Layer, args: Arguments, source: int, size: int) -> Resized:
    dense, step = _channels(layer, 0), args[4] if len(args) > 4 else 1
    start = (args[2] or 0) if len(args) > 2 else 0
    start = start + dense if start < 0 else start
    source = max(source, (size - 1) * step + 1)
    start = min(round(start * source / dense), source - (size - 1) * step - 1)
    return source, [args[0], args[1], start, start + size * step, step]


def _split(layer: Layer, args: Arguments, source: int, size: int) -> Resized:
    return max(source, size), [args[0], size, *args[2:]]


def _split_with_sizes(layer: Layer, args: Arguments, source: int, size: int) -> Resized:
    parts = [size, *_shares(args[1][1:], source - size)]
    return sum(parts), [args[0], parts, *args[2:]]


def _group_norm(layer: Layer, args: Arguments, source: int, size: int) -> Resized:
    """Whole norm groups go, so their size stays; a count that they do not divide gets the next smaller number."""
    wanted = max(1, round(args[6] * size / args[4]))
    groups = next(count for count in range(wanted, 0, -1) if size % count == 0)
    return size, [*args[:4], size, args[5], groups, *args[7:]]


def _constant_pad(layer: Layer, args: Arguments, source: int, size: int) -> Resized:
    before, after = _pads(layer)
    if before < 0 or after < 0 or not before + after:
        return source, args
    first = round((size - source) * before / (before + after))
    return source, [args[0], _with_pads(layer, [first, size - source - first]), *args[2:]]


def _pads(layer: Layer) -> list[int]:
    first = 2 * (len(layer.inputs[0].shape) - 1 - layer.inputs[0].channel_dim)  # type: ignore[operator]
    return list(_call(layer)["args"][1][first : first + 2])


def _with_pads(layer: Layer, pads: Sequence[int | None]) -> list[int | None]:
    """``pad`` (pairs, the last dimension first) with another pair for the channels, where it has one."""
    present = list(_call(layer)["args"][1])
    if not _counts_channels(layer):
        return present
    first = 2 * (len(layer.inputs[0].shape) - 1 - layer.inputs[0].channel_dim)  # type: ignore[operator]
    return [*present[:first], *pads, *present[first + 2 :]]


_RESIZE: dict[str, Callable[[Layer, Arguments, int, int], Resized]] = {
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split_with_sizes,
    "group_norm": _group_norm,
    "constant_pad_nd": _constant_pad,
}


def _resize_constants(value: Any, size: int) -> Any:
    if isinstance(value, (list, tuple)):
        return [_resize_constants(item, size) for item in value]
    if isinstance(value, dict) and value.get("channel_dim") is not None:
        shape = list(value["constant"])
        shape[value["channel_dim"]] = size
        return {**value, "constant": shape}
    return value


def _bare(value: Any) -> Any:
    """Constants without their channel count."""
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    if isinstance(value, dict):
        if value.get("channel_dim") is not None:
            dim = value["channel_dim"]
            return {**value, "constant": [None if i == dim else s for i, s in enumerate(value["constant"])]}
        return {name: _bare(item) for name, item in value.items()}
    return value
