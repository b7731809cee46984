"""Residual branches that can be removed: found in a recording by what they read and who reads them.

An addition of two tensors of one shape is residual if one of them (the branch) is computed for it alone, from what the
other one (the stream) held before. Without the branch the addition gives the stream. Code cannot be changed, modules
can: all that the branch calls are replaced by what returns zeros, so that what is left of the branch does not depend on
the input, and an exporter drops it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from hwprune.latency.layer import Layer
from hwprune.network.grouping import uniquely_named
from hwprune.network.labels import Labelled
from hwprune.network.layers import runs_kernel, views_in
from hwprune.network.network import Block, ChannelGroup
from hwprune.network.recorded import Call, Recording, Ref


def blocks_of(
    recording: Recording, labelled: Sequence[Labelled], groups: Sequence[ChannelGroup], layers: Sequence[Layer]
) -> tuple[Block, ...]:
    """The branches that can be removed as far as the recording tells, in execution order.

    Of branches inside others, the inner ones; of a branch no channels of which can be cut, none: what it is worth
    would not be known.

    Args:
        recording: of one forward pass.
        labelled: its values' labels.
        groups: those that can be cut.
        layers: made from the same recording.
    """
    finder = _Finder(recording, labelled, groups, layers)
    found, taken = dict[int, Block](), set[str]()
    for _, index, block in sorted(finder.blocks(), key=lambda one: one[:2]):
        if taken.isdisjoint(block.layers):
            taken.update(block.layers)
            found[index] = block
    return uniquely_named([found[index] for index in sorted(found)])


class _Finder:
    def __init__(
        self,
        recording: Recording,
        labelled: Sequence[Labelled],
        groups: Sequence[ChannelGroup],
        layers: Sequence[Layer],
    ) -> None:
        self._calls, self._values, self._labelled = recording.calls, recording.values, labelled
        self._groups = groups
        self._origin = views_in(recording)
        self._maker = {ref.index: index for index, call in enumerate(self._calls) for ref in call.outputs}
        self._readers: dict[int, set[int]] = defaultdict(set)
        for index, call in enumerate(self._calls):
            for ref in call.reads if index not in recording.idle else ():
                self._readers[ref.index].add(index)
        for ref in recording.outputs:
            self._readers[ref.index].add(len(self._calls))
        self._stored = [(value.name, index) for index, value in enumerate(recording.values) if value.name]
        self._times = Counter(one.module for one in recording.returned)
        self._outputs = {one.module: one.outputs for one in recording.returned}
        self._returning: dict[int, list[str]] = defaultdict(list)  # value → the modules that return it, inner first
        for one in recording.returned:
            self._returning[one.first.index].append(one.module)
        self._under: dict[str, list[int]] = defaultdict(list)  # module → what runs in it and depends on the input
        for index, call in enumerate(self._calls):
            parts = call.module.split(".")
            for count in range(1, len(parts) + 1) if not self._is_constant(call) else ():
                self._under[".".join(parts[:count])].append(index)
        kernels = [index for index, call in enumerate(self._calls) if runs_kernel(call, labelled)]
        self._layer = dict(zip(kernels, (layer.name for layer in layers), strict=True))
        self._stream: dict[int, int] = {}  # sum of a residual addition → the stream before it

    def blocks(self) -> Iterator[tuple[int, int, Block]]:
        """How many calls each block has, the index of its addition, and the block."""
        for index, call in enumerate(self._calls):
            if call.op != "add" or len(call.reads) != 2 or call.arguments.get("alpha", 1) != 1:
                continue
            for stream, branch in (call.reads, call.reads[::-1]):
                shapes = {self._values[ref.index].shape for ref in (stream, call.outputs[0])}
                private = self._private(branch, stream, index)
                if len(shapes) > 1 or not private or not self._reads_stream(private, stream):
                    continue
                self._stream[self._root(call.outputs[0].index)] = self._root(stream.index)
                block = self._block(index, branch, private)
                if block is not None:
                    yield len(private), index, block
                break

    def _root(self, value: int) -> int:
        return self._origin.get(value, value)

    def _private(self, branch: Ref, stream: Ref, addition: int) -> set[int]:
        """The calls that run for this branch of an addition alone."""
        inside, wanted = {addition}, [branch.index]
        while wanted:
            value = wanted.pop()
            maker = self._maker.get(value)
            if maker is None or maker in inside or value == stream.index:
                continue
            if all(self._readers[ref.index] <= inside for ref in self._calls[maker].outputs):
                inside.add(maker)
                wanted += [ref.index for ref in self._calls[maker].reads]
        return inside - {addition}

    def _reads_stream(self, private: set[int], stream: Ref) -> bool:
        """Whether the branch starts from what the stream held, now or before earlier residual additions."""
        made = {ref.index for index in private for ref in self._calls[index].outputs}
        read = {self._root(r.index) for i in private for r in self._calls[i].reads if r.index not in made}
        value: int | None = self._root(stream.index)
        while value is not None:
            if value in read:
                return True
            value = self._stream.get(value)
        return False

    def _block(self, addition: int, branch: Ref, private: set[int]) -> Block | None:
        last = self._last(branch, private)
        if last is None:
            return None
        modules = {last: self._outputs[last]}
        for index in sorted(private):
            outer = None if self._is_constant(self._calls[index]) else self._outermost(index, private)
            if outer is not None and not f"{outer}.".startswith(f"{last}."):
                modules[outer] = self._outputs[outer]
        layers = tuple(self._layer[index] for index in (*sorted(private), addition) if index in self._layer)
        block = Block(name=_common(modules), groups=(), layers=layers, modules=modules, last=last)
        groups = (g for g in self._groups if all(block.holds(member.tensor) for member in g.tensors))
        block = replace(block, groups=tuple(group.name for group in groups))
        alone = all(self._readers[index] <= private for name, index in self._stored if block.holds(name))
        return block if block.groups and all(modules.values()) and alone else None

    def _outermost(self, index: int, private: set[int]) -> str | None:
        """The outermost module that a call runs in and that is inside."""
        parts = self._calls[index].module.split(".")
        paths = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return next((path for path in paths if self._inside(path, private)), None)

    def _inside(self, path: str, private: set[int]) -> bool:
        """Whether a module ran once, and nothing but what runs for the branch alone."""
        return self._times[path] == 1 and all(index in private for index in self._under[path])

    def _is_constant(self, call: Call) -> bool:
        return all(self._labelled[ref.index].constant for ref in call.outputs)

    def _last(self, branch: Ref, private: set[int]) -> str | None:
        """The module after which only what keeps zeros zero is done to the branch."""
        value = branch.index
        while (maker := self._maker.get(value)) in private:
            found = [path for path in self._returning[value] if self._inside(path, private)]
            if found:
                return found[-1]
            call = self._calls[maker]
            changing = [ref for ref in call.reads if not self._labelled[ref.index].constant]
            if call.op not in _KEEPING_ZEROS or len(changing) != 1:
                return None
            value = changing[0].index
        return None


_KEEPING_ZEROS = frozenset(
    {"view", "_unsafe_view", "reshape", "permute", "transpose", "t", "clone", "contiguous", "squeeze", "unsqueeze"}
    | {"roll", "slice", "select", "expand", "constant_pad_nd", "mul", "div", "neg", "dropout", "relu", "gelu", "flip"}
    | {"alias", "detach", "_to_copy", "to"}
)


def _common(paths: Iterable[str]) -> str:
    """The innermost module that holds them all; without one, the first of them."""
    parts: list[str] = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        parts.append(names[0])
    return ".".join(parts) or next(iter(paths))
