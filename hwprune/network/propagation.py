"""Walking a recording: every operator's rule, in order, gives every value its labels."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree

from hwprune.network.labels import Labelled, Labels
from hwprune.network.recording import Recording, Ref, Value
from hwprune.network.rules import Step, rule_for


def propagate(recording: Recording, labels: Labels) -> list[Labelled]:
    """Label every value of the recording.

    Args:
        recording: of one forward pass.
        labels: collects ties, freezes and roles.

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

    for call in recording.calls:
        arguments = _pytree.tree_map(labelled, call.arguments)
        shapes = [recording.values[output.index].shape for output in call.outputs]
        step = Step(call, arguments, shapes, labels)
        results = rule_for(call)(step) if step.tensors else []
        if call.in_place and results:
            results = [_within(step, results[0])]
        constant = all(tensor.constant for tensor in step.tensors)
        origin = f"the result of {call.place}"
        for position, output in enumerate(call.outputs):
            dims = results[position] if position < len(results) else {}
            known[output.index] = Labelled(shapes[position], dims, constant, origin)
    for output in recording.outputs:
        for ids in labelled(output).dims.values():
            labels.freeze(ids, "the model's output")
    return [labelled(Ref(index)) for index in range(len(recording.values))]


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


def unused(recording: Recording) -> set[str]:
    """Names of parameters that no operator read."""
    read = {ref.index for call in recording.calls for ref in call.reads}
    return {
        value.name for index, value in enumerate(recording.values) if value.source == "parameter" and index not in read
    }
