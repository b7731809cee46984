"""The nodes of an ONNX model, read without the onnx package, and which of a runtime's kernels each of them runs in.

Needed where kernels are timed, and to see that a model is whole. Only names and edges of the graph are read. The format
is protobuf's: a message is a sequence of numbered fields (https://protobuf.dev/programming-guides/encoding), whose
numbers are in onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput
else:
    from device_runner import BadInput  # beside it on a device

_GRAPH, _NODE, _INITIALIZER, _INPUT = 7, 1, 5, 11  # fields of ModelProto and GraphProto
_TENSOR_NAME, _VALUE_NAME = 8, 1
_EXTERNAL = 13  # field of TensorProto
_HOLDS: dict[str, dict[int, str]] = {  # by kind of message: the fields through which tensors are reached
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {},
}
_LAST_FIELD = (1 << 29) - 1


class Node(NamedTuple):
    """One node; ``name`` is that of its first output where the model gives it none."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph:
    """The nodes of a model, in the order of the file, which is one in which they can run.

    Attributes:
        nodes: all of them.
        by_name: the same by name.
        producer: the node that computes a value, by the value's name.
        consumers: the nodes that read a value, by the value's name.
        live: names of the nodes that compute something from the model's inputs; the others can be computed once.

    Args:
        model: a serialised ONNX model.

    Raises:
        BadInput: it is none.
    """

    def __init__(self, model: bytes) -> None:
        try:
            self._read(memoryview(model))
        except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise BadInput(f"this is no ONNX model: {error}") from error
        self.by_name = {node.name: node for node in self.nodes}
        self.producer = {value: node for node in self.nodes for value in node.outputs}
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                self.consumers.setdefault(value, []).append(node)
        self.live: set[str] = set()
        for node in self.nodes:
            above = (self.producer.get(value) for value in node.inputs)
            if any(value in self._inputs for value in node.inputs) or any(
                one and one.name in self.live for one in above
            ):
                self.live.add(node.name)

    def _read(self, model: memoryview) -> None:
        self.nodes: list[Node] = []
        inputs, constants = set(), set()
        for number, graph in _fields(model):
            for field, content in _fields(graph) if number == _GRAPH else ():
                if field == _NODE:
                    self.nodes.append(_node(content))
                elif field == _INITIALIZER:
                    constants.add(_texts(content, _TENSOR_NAME)[0])
                elif field == _INPUT:
                    inputs.add(_texts(content, _VALUE_NAME)[0])
        self._inputs = inputs - constants  # old models list their constants as inputs, too

    def behind(self, node: Node, stop: Iterable[str]) -> list[Node]:
        """The live nodes that ``node`` gets its inputs from, itself last, up to the values in ``stop``."""
        stop, found, waiting = set(stop), {node.name}, [node]
        while waiting:
            for value in waiting.pop().inputs:
                above = self.producer.get(value)
                if value not in stop and above and above.name in self.live and above.name not in found:
                    found.add(above.name)
                    waiting.append(above)
        return [one for one in self.nodes if one.name in found]

    def settled(self, owners: Mapping[str, int]) -> dict[str, int]:
        """The kernel of every live node that has one.

        A runtime fuses an operator into what computes its operands: a node that no kernel answers for is taken to run
        in the last of the kernels that its inputs come from. Padding is fused into what reads it, and so is what comes
        before every kernel.

        Args:
            owners: for the nodes whose kernel is known by name, its place in the order of execution.
        """
        found: dict[str, int] = {}
        for node in self.nodes:
            above = (self.producer.get(value) for value in node.inputs)
            places = [found[one.name] for one in above if one and one.name in found]
            if node.name in owners:
                found[node.name] = owners[node.name]
            elif places and node.name in self.live and node.op != "Pad":
                found[node.name] = max(places)
        for node in reversed(self.nodes):
            readers = [one.name for value in node.outputs for one in self.consumers.get(value, ())]
            places = [found[name] for name in readers if name in found]
            if places and node.name in self.live:
                found.setdefault(node.name, min(places))
        return found


def check_whole(model: bytes) -> None:
    """Refuse a model whose weights are not all inside: a runtime may open the files that it names.

    Raises:
        BadInput: a tensor anywhere in it has external data, or it is no ONNX model.
    """
    waiting = [("model", memoryview(model))]
    try:
        while waiting:
            kind, message = waiting.pop()
            for number, content in _fields(message):
                if number > _LAST_FIELD:  # what a reader of 32 bits makes of that is another field
                    raise IndexError(f"field {number}")
                if kind == "tensor" and number == _EXTERNAL:
                    name = (*_texts(message, _TENSOR_NAME), "")[0]
                    raise BadInput(f"the model keeps the tensor {name!r} in another file; its weights must be inside")
                if number in _HOLDS[kind]:
                    waiting.append((_HOLDS[kind][number], content))
    except (IndexError, UnicodeDecodeError) as error:
        raise BadInput(f"this is no ONNX model: {error}") from error


def _node(content: memoryview) -> Node:
    inputs, outputs = _texts(content, 1), _texts(content, 2)
    name, op = (*_texts(content, 3), "")[0], (*_texts(content, 4), "")[0]
    return Node(name or next((value for value in outputs if value), ""), op, inputs, outputs)


def _texts(message: memoryview, number: int) -> tuple[str, ...]:
    return tuple(bytes(content).decode() for field, content in _fields(message) if field == number)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    return ((number, message[start:end]) for number, start, end in spans(message, 0, len(message)))


def spans(data: bytes | memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a protobuf message that have a length: texts, bytes and messages.

    Args:
        data: holds the message.
        start: place of its first byte.
        end: place after its last.

    Returns:
        number, start and end of the content of each.

    Raises:
        IndexError: it is no such message.
    """
    place = start
    while place < end:
        key, place = _varint(data, place)
        if key & 7 == 2:
            length, place = _varint(data, place)
            if place + length > end:
                raise IndexError("it was cut short")
            yield key >> 3, place, place + length
            place += length
        elif key & 7 == 0:
            _, place = _varint(data, place)
        elif key & 7 in (1, 5):
            place += 8 if key & 7 == 1 else 4
        else:
            raise IndexError(f"wire type {key & 7}")


def _varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
