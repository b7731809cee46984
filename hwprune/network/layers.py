"""From recorded operators to the layers that cost time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from hwprune.budget import Axis, Product
from hwprune.latency.layer import Layer, Operand
from hwprune.network.dimensions import Dimensions
from hwprune.network.labels import Ids, Labelled
from hwprune.network.recorded import Call, Recording, Ref

_NO_KERNEL = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "expand", "detach", "alias"}
    | {"lift_fresh", "clone", "contiguous", "dropout", "as_strided"}
)
_OTHER_NAMES = {
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_batch_norm_no_update": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "miopen_batch_norm": "batch_norm",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d",
    "_prelu_kernel": "prelu",
}
_PRODUCTS = {"mm": (0, 1), "addmm": (1, 2), "linear": (0, 1)}


def layers_of(recording: Recording, labelled: Sequence[Labelled], dimensions: Dimensions) -> tuple[Layer, ...]:
    """Every operation that runs a kernel on an activation, in execution order.

    Views and what is computed from parameters alone are left out.

    Args:
        recording: of one forward pass.
        labelled: its values' labels.
        dimensions: the sizes of its values.
    """
    return _LayerMaker(recording, labelled, dimensions).layers()


def activations_of(recording: Recording, labelled: Sequence[Labelled]) -> list[Ids]:
    """Ids of every dimension that a layer's cost may depend on, without repetition."""
    found: dict[bytes, Ids] = {}
    for call in recording.calls:
        if not runs_kernel(call, labelled):
            continue
        for ref in (*call.reads, *call.outputs[:1]):
            for ids in () if labelled[ref.index].constant else labelled[ref.index].dims.values():
                found.setdefault(ids.tobytes(), ids)
    return list(found.values())


def runs_kernel(call: Call, labelled: Sequence[Labelled]) -> bool:
    """Whether an operator computes something from an activation; views do not."""
    if not call.outputs or call.op in _NO_KERNEL or labelled[call.outputs[0].index].constant:
        return False
    return any(not labelled[ref.index].constant for ref in call.reads)


def views_in(recording: Recording) -> dict[int, int]:
    """View → the value it looks at, through any number of views."""
    origin: dict[int, int] = {}
    for call in _views(recording):
        source = call.reads[0].index
        origin[call.outputs[0].index] = origin.get(source, source)
    return origin


def _views(recording: Recording) -> list[Call]:
    return [call for call in recording.calls if call.op in _NO_KERNEL and call.outputs and call.reads]


class _LayerMaker:
    def __init__(self, recording: Recording, labelled: Sequence[Labelled], dimensions: Dimensions) -> None:
        self._recording = recording
        self._labelled = labelled
        self._dimensions = dimensions
        self._names: Counter[str] = Counter()
        self._counted: set[str] = set()
        self._maker: dict[int, str] = {}  # value → the layer that wrote it, through views
        self._origin = views_in(recording)
        self._views = {call.outputs[0].index: call.reads[0].index for call in _views(recording)}
        self._owners: dict[int, set[str]] = {}  # computed constant → parameters it was computed from
        self._readers: Counter[int] = Counter()

    def layers(self) -> tuple[Layer, ...]:
        for call in self._recording.calls:
            self._note_owners(call)
        for call in self._recording.calls:
            if runs_kernel(call, self._labelled):
                self._readers.update({self._root(ref) for ref in call.reads})
        self._readers.update(self._root(ref) for ref in self._recording.outputs)
        return tuple(self._layer(call) for call in self._recording.calls if runs_kernel(call, self._labelled))

    def _note_owners(self, call: Call) -> None:
        names = set().union(*(self._parameters_in(ref) for ref in call.reads)) if call.reads else set()
        for output in call.outputs:
            if self._labelled[output.index].constant:
                self._owners[output.index] = names

    def _root(self, ref: Ref) -> int:
        return self._origin.get(ref.index, ref.index)

    def _parameters_in(self, ref: Ref) -> set[str]:
        value = self._recording.values[ref.index]
        if value.source in ("parameter", "alias"):
            return {value.name}
        return self._owners.get(ref.index, set())

    def _layer(self, call: Call) -> Layer:
        name = self._name(call)
        if call.op in ("convolution", "_convolution"):
            layer = self._convolution(call, name)
        elif call.op in _PRODUCTS and self._labelled[_weight(call).index].constant:
            layer = self._linear(call, name)
        else:
            layer = self._other(call, name)
        for output in call.outputs:
            self._maker[output.index] = name
        return layer

    def _name(self, call: Call) -> str:
        op = _OTHER_NAMES.get(call.op, call.op)
        name = call.module if call.builtin else f"{call.module}.{op}".lstrip(".")
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"

    def _parameter_count(self, call: Call) -> int:
        """Elements of the parameters it reads; those of a shared module count at their first use."""
        names = set().union(*(self._parameters_in(ref) for ref in call.reads)) - self._counted
        self._counted |= names
        values = self._recording.values
        return sum(math.prod(value.shape) for value in values if value.source == "parameter" and value.name in names)

    def _follows(self, call: Call) -> tuple[str, ...]:
        found = []
        for ref in call.reads:
            root = self._root(ref)
            if root in self._maker and self._readers[root] == 1:
                found.append(self._maker[root])
        return tuple(dict.fromkeys(found))

    def _operand(self, ref: Ref, dim: int | None = None, shape: tuple[int, ...] | None = None) -> Operand:
        """An activation; ``dim`` says which dimension holds the channels, otherwise labels tell."""
        own, axes = self._labelled[ref.index].shape, self._dimensions.of(ref.index)
        shape = shape or own
        if dim is None:
            dim = next((key for key, axis in axes.items() if axis.addends), next(iter(axes), None))
        if dim is None:
            return Operand(shape)
        place = len(own) - 1 if dim == len(shape) - 1 else dim
        others = () if shape != own else tuple((key, a) for key, a in axes.items() if key != place and a.addends)
        return Operand(shape, dim, axes.get(place, Axis(shape[dim])), others)

    def _convolution(self, call: Call, name: str) -> Layer:
        arguments = call.arguments
        source, weight = arguments["input"], self._recording.values[arguments["weight"].index].shape
        output = self._recording.values[call.outputs[0].index].shape
        transposed, groups = arguments["transposed"], arguments["groups"]
        spatial = len(weight) - 2
        attributes = {
            "kernel": list(weight[2:]),
            **{key: _per_dimension(arguments[key], spatial) for key in ("stride", "padding", "dilation")},
            "output_padding": _per_dimension(arguments["output_padding"], spatial),
            "bias": arguments["bias"] is not None,
            "conv_groups": groups,
        }
        positions = self._recording.values[source.index].shape if transposed else output
        return Layer(
            name=name,
            op="conv_transpose" if transposed else "conv",
            inputs=(self._operand(source, 1),),
            output=self._operand(call.outputs[0], 1),
            attributes=attributes,
            macs=math.prod(positions) * math.prod(weight[1:]),
            parameters=self._parameter_count(call),
            follows=self._follows(call),
            cut_per_group=groups > 1,
        )

    def _linear(self, call: Call, name: str) -> Layer:
        source, weight = _source(call), self._recording.values[_weight(call).index].shape
        shape = self._with_tokens(source)
        produced = math.prod(weight) // shape[-1]
        bias = call.op == "addmm" or call.arguments.get("bias") is not None
        last = len(shape) - 1
        return Layer(
            name=name,
            op="linear",
            inputs=(self._operand(source, last, shape),),
            output=self._operand(call.outputs[0], last, (*shape[:-1], produced)),
            attributes={"bias": bias},
            macs=math.prod(shape) * produced,
            parameters=self._parameter_count(call),
            follows=self._follows(call),
        )

    def _with_tokens(self, source: Ref) -> tuple[int, ...]:
        """The shape before views made one dimension of the tokens; as far back as no view touches the channels."""
        index, values = source.index, self._recording.values
        features = values[index].shape[-1]
        while index in self._views and (values[self._views[index]].shape or (0,))[-1] == features:
            index = self._views[index]
        return values[index].shape

    def _other(self, call: Call, name: str) -> Layer:
        work = tuple(self._work(call))
        inputs = [ref for ref in call.reads if not self._labelled[ref.index].constant]
        return Layer(
            name=name,
            op=_OTHER_NAMES.get(call.op, call.op),
            inputs=tuple(self._operand(ref) for ref in inputs),
            output=self._operand(call.outputs[0]),
            call={
                "target": _functional(call),
                "args": self._plain(call.args, inputs),
                "kwargs": {
                    key: self._plain(value, inputs)
                    for key, value in call.kwargs.items()
                    if key not in ("device", "pin_memory", "layout")
                },
            },
            macs=round(sum(one.at(self._dimensions.dense) for one in work)),
            parameters=self._parameter_count(call),
            follows=self._follows(call),
            work=work,
        )

    def _work(self, call: Call) -> Iterator[Product]:
        """Multiply-accumulates of a product of activations, such as attention's; none of anything else."""
        if "scaled_dot_product" in call.op:  # scores, and values by them
            query, key, value = (self._axes(ref) for ref in call.reads[:3])
            output = self._axes(call.outputs[0])
            for last in (query[-1], value[-1]):
                yield Product.of((*output[:-1], key[-2], last))
        elif call.op in ("bmm", "matmul", "baddbmm", "mm", "addmm"):
            yield Product.of((*self._axes(call.outputs[0]), self._axes(call.reads[-2])[-1]))

    def _axes(self, ref: Ref) -> tuple[Axis, ...]:
        return self._dimensions.all_of(ref.index)

    def _plain(self, value: Any, inputs: list[Ref]) -> Any:
        """An argument as JSON."""
        if isinstance(value, Ref):
            if value in inputs:
                return {"input": inputs.index(value)}
            operand = self._operand(value)
            return {
                "constant": list(operand.shape),
                "channel_dim": operand.channel_dim,
                "dtype": self._recording.values[value.index].dtype,
            }
        if isinstance(value, list | tuple):
            return [self._plain(item, inputs) for item in value]
        if isinstance(value, torch.dtype | torch.memory_format | torch.layout | torch.device):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        return value if isinstance(value, bool | int | float | str) or value is None else {"repr": repr(value)}


def _functional(call: Call) -> str:
    """The operator's name, without the underscore of its in-place form."""
    namespace, name, overload = call.target.split(".")
    return f"{namespace}.{name.removesuffix('_')}.{overload}" if call.in_place else call.target


def _per_dimension(values: Sequence[int], spatial: int) -> list[int]:
    return list(values) * spatial if len(values) == 1 else list(values)


def _source(call: Call) -> Ref:
    return _factors(call)[0]


def _weight(call: Call) -> Ref:
    return _factors(call)[1]


def _factors(call: Call) -> tuple[Ref, Ref]:
    """The activation and the weight of a matrix product."""
    arguments: list[Ref] = list(call.arguments.values())
    first, second = _PRODUCTS[call.op]
    return arguments[first], arguments[second]
