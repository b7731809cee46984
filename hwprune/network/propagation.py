"""Walking a recording: every operator's rule, in order, gives every value its labels."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
from torch.utils import _pytree

from hwprune.network.grouping import components
from hwprune.network.labels import Ids, Labelled, Labels
from hwprune.network.recorded import Recording, Ref, Value
from hwprune.network.rules import Step, rule_for

Place = int | str | tuple[Literal["width"], str] | tuple[Literal["first"], int] | tuple[Literal["together"], str]
"""Something that can be read in another way: a call that splits a dimension of which another part could carry the
channels, by its index; a module whose attributes may hold the sizes of views, by its path; or one in which a view may
be as wide as what the module was called with, as ("width", path); a call that splits into more than two parts, of which
the first may carry the channels, as ("first", index); a module in which one attribute may be the size of several
dimensions, which then go together, as ("together", path)."""


def propagate(recording: Recording, labels: Labels, other: Container[Place] = (), *, first: int = 0) -> list[Labelled]:
    """Label every value of the recording.

    Args:
        recording: of one forward pass.
        labels: collects ties, freezes and roles.
        other: what is read in another way: of a call's dimension, not the last part carries the channels but the one
            before; a module's attributes hold the sizes of unequal parts.
        first: index of the first call, where several recordings share labels.

    Returns:
        One entry per value. The model's outputs are frozen.
    """
    known: dict[int, Labelled] = {}

    def labelled(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        if leaf.index not in known:
            known[leaf.index] = _leaf(recording, leaf.index, labels)
        return known[leaf.index]

    for index, call in enumerate(recording.calls, first):
        arguments = _pytree.tree_map(labelled, call.arguments)
        shapes = [recording.values[output.index].shape for output in call.outputs]
        step = Step(
            call,
            arguments,
            shapes,
            labels,
            part=2 if ("first", index) in other else index in other,
            told=call.module in other,
            norm=recording.norms.get(call.module),
        )
        results = rule_for(call)(step) if step.tensors and index - first not in recording.idle else []
        labels.splits.update((index, ids.ravel()) for ids in step.splits)
        if call.in_place and call.op not in _MOVING and results:
            results = [_within(step, results[0])]
        if call.op in _SIZED and call.told and not call.builtin and results:
            labels.claims += [(call.module, ids.size, ids) for ids in results[0].values() if ids.size > 1]
        constant = all(tensor.constant for tensor in step.tensors)
        origin = f"the result of {call.place}"
        for position, output in enumerate(call.outputs):
            dims = results[position] if position < len(results) else {}
            known[output.index] = Labelled(shapes[position], dims, constant, origin)
    for output in recording.outputs:
        for ids in labelled(output).dims.values():
            labels.freeze(ids, "the model's output")
    return [labelled(Ref(index)) for index in range(len(recording.values))]


_MOVING = frozenset({"transpose", "t", "squeeze", "unsqueeze", "swapaxes", "swapdims"})  # dimensions, in place or not
_SIZED = frozenset({"view", "_unsafe_view", "reshape", "expand"})  # operators that are told the sizes of their result


def follow_norms(recording: Recording, labels: Labels, labelled: Sequence[Labelled]) -> dict[str, int]:
    """Freeze what is reduced over by modules that are no norms.

    Args:
        recording: of one forward pass.
        labels: with what may be norms.
        labelled: every value of the recording.

    Returns:
        First parameter of every norm that is written out → the dimension of its input that it is as long as, counted
        from the end.
    """
    root, found = components(labels.size, labels.ties), dict[str, int]()
    for module, name, ids, why in labels.written:
        own = root[labels.block(name, 0, ids.size)]
        dims = {dim for dim, have in _given(recording, labelled, module) if np.array_equal(root[have], own)}
        if len(dims) == 1 and np.array_equal(root[ids], own):
            found[name] = dims.pop()
        else:
            labels.freeze(ids, why)
    return found


def follow_widths(
    recording: Recording, labels: Labels, labelled: Sequence[Labelled], other: Container[Place]
) -> list[tuple[str, Ids]]:
    """Tie dimensions to those of a module's input that their sizes may have been taken from.

    Attention is often written with ``width // heads`` and ``reshape(batch, tokens, width)``, where the width is that of
    the embedding: the sum of its heads is then as wide as the embedding, in this order.

    Args:
        recording: of one forward pass.
        labels: with its claims.
        labelled: every value of the recording.
        other: with the modules in which they are tied.

    Returns:
        Module and ids of every dimension that a view was told a size of which a module's input has one other dimension.
    """
    root, found = components(labels.size, labels.ties), list[tuple[str, Ids]]()
    widths: dict[tuple[str, int], dict[bytes, Ids]] = {}
    for module in recording.given:
        for _, ids in _given(recording, labelled, module):
            widths.setdefault((module, ids.size), {})[root[ids].tobytes()] = ids
    for module, size, ids in labels.claims:
        width = list(widths.get((module, size), {}).values())
        if len(width) == 1 and not np.array_equal(root[width[0]], root[ids]):
            found.append((module, ids))
            if ("width", module) in other:
                labels.tie(ids, width[0])
    return found


def follow_sizes(recording: Recording, labels: Labels, labelled: Sequence[Labelled], modules: Container[Place]) -> None:
    """Tie attributes that hold a size to the channels that they are the number of.

    An attribute is taken for the size that a view or a split was given in the same module, if they are equal, and the
    dimension is always the same channels; or the only ones besides those that the module was called with, whose number
    it need not remember. Whether that was right, tracing finds out by running the cut network.

    Args:
        recording: of one forward pass.
        labels: with its claims.
        labelled: every value of the recording.
        modules: whose attributes.
    """
    root, followed = components(labels.size, labels.ties), set[tuple[str, int]]()
    claims: dict[tuple[str, int], dict[bytes, Ids]] = {}
    for module, size, ids in labels.claims:
        claims.setdefault((module, size), {})[root[ids].tobytes()] = ids
    for module, sizes in recording.sizes.items():
        together = ("together", module) in modules
        if module not in modules and not together:
            continue
        given = {root[ids].tobytes() for _, ids in _given(recording, labelled, module)}
        for name, size in sizes.items():
            found = claims.get((module, size), {})
            claimed = [ids for key, ids in found.items() if together or key not in given] or list(found.values())
            if len(claimed) == 1 or together:
                for ids in claimed:
                    _follow(labels, module, name, ids)
                followed.add((module, size))
    _follow_parts(recording, labels, followed)


def _follow_parts(recording: Recording, labels: Labels, followed: Set[tuple[str, int]]) -> None:
    """Tie the elements of an attribute that holds the sizes of unequal parts; freeze parts whose sizes nobody holds."""
    for module, parts, why in labels.told:
        whole = _several(recording.sizes.get(module, {}), [ids.size for ids in parts])
        for name, ids in zip(whole, parts, strict=False):
            _follow(labels, module, name, ids)
        unknown = [ids for ids in parts if (module, ids.size) not in followed]
        if not whole and len(unknown) > 1:  # one is what is left over, and needs no attribute
            for ids in parts:
                labels.freeze(ids, why)


def _given(recording: Recording, labelled: Sequence[Labelled], module: str) -> Iterator[tuple[int, Ids]]:
    """Dimensions, counted from the end, of the tensors that a module was called with, and their ids."""
    for tensor in (labelled[ref.index] for ref in recording.given.get(module, ())):
        yield from ((dim - len(tensor.shape), ids) for dim, ids in tensor.dims.items())


def _follow(labels: Labels, module: str, name: str, ids: Ids) -> None:
    attribute = labels.block(f"{module}.{name}".lstrip("."), 0, ids.size)
    labels.mark(attribute, "size")
    labels.tie(attribute, ids)


def _several(held: Mapping[str, int], sizes: list[int]) -> list[str]:
    """The elements of the attribute that holds exactly these sizes; none if there is no such one, or several."""
    lists: dict[str, list[int]] = {}
    for name, size in held.items():
        if name.endswith("]"):
            lists.setdefault(name.partition("[")[0], []).append(size)
    found = [name for name, values in lists.items() if values == sizes]
    return [f"{found[0]}[{index}]" for index in range(len(sizes))] if len(found) == 1 else []


def _leaf(recording: Recording, index: int, labels: Labels) -> Labelled:
    """A value that no operator made."""
    value: Value = recording.values[index]
    if value.source in ("parameter", "buffer"):
        dims = {dim: labels.block(value.name, dim, size) for dim, size in enumerate(value.shape)}
        return Labelled(value.shape, dims, constant=True, origin=f"the tensor {value.name}")
    if value.source == "alias":
        owner = next(other for other in recording.values if other.name == value.name)
        for dim, size in enumerate(owner.shape):
            reason = f"{value.name} is read in another form than the model holds it"
            labels.freeze(labels.block(value.name, dim, size), reason)
        return Labelled(value.shape, constant=True, origin=f"another form of {value.name}")
    origin = "the network's input" if value.source == "input" else "a tensor that is not a parameter or buffer"
    return Labelled(value.shape, constant=value.source == "constant", origin=origin)


def _within(step: Step, dims: dict[int, Any]) -> dict[int, Any]:
    """What is written in place keeps the identities of the tensor that is written into."""
    target = step.source
    for dim, ids in dims.items():
        if dim not in target.dims:
            step.freeze(ids, f"written into {target.origin}, whose size is fixed")
    return dict(target.dims)
