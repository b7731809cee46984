"""A forward pass as data: calls, the values they read and write, and what is known of the modules they ran in.

Tensors are stood in for by :class:`Ref`, an index into ``Recording.values``. An operator that writes in
place makes a new value, so every value is written once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch.utils import _pytree

Source = Literal["parameter", "buffer", "input", "alias", "constant", "computed"]


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor: its index in ``Recording.values``."""

    index: int


@dataclass(frozen=True)
class Value:
    """One tensor of the forward pass.

    Attributes:
        shape: its sizes.
        dtype: its element type (``float32``).
        source: ``parameter``, ``buffer``, ``input``, ``alias`` (reads a parameter's memory in another form,
            e.g. through ``.data``), ``constant`` (a tensor that only Python holds) or ``computed``.
        name: for parameters, buffers and aliases, the tensor's name in the model.
    """

    shape: tuple[int, ...]
    dtype: str
    source: Source
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One ATen operator that ran.

    Attributes:
        op: name without namespace, overload and in-place underscore (``relu`` for ``aten.relu_.default``).
        target: full name.
        pointwise: PyTorch tags it as element by element with broadcasting.
        in_place: writes into its first argument and returns it.
        mutates: writes into an argument in any other way.
        arguments: every argument of the operator's schema by name, defaults included; tensors as Ref.
        args: positional arguments as given.
        kwargs: keyword arguments as given.
        outputs: one per tensor written, in order.
        module: path of the innermost module it ran in ("" for the model itself).
        builtin: that module is one of ``torch.nn`` without children.
        told: somebody called for a tensor of these sizes; those of a view inside a matrix product, say, follow.
    """

    op: str
    target: str
    pointwise: bool
    in_place: bool
    mutates: bool
    arguments: dict[str, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    module: str
    builtin: bool
    told: bool = False

    @property
    def place(self) -> str:
        """The operator and where it ran, for messages."""
        return f"{self.op} in {self.module or 'the model itself'}"

    @cached_property
    def reads(self) -> tuple[Ref, ...]:
        """The tensors it reads, in argument order."""
        return tuple(leaf for leaf in _pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref))


@dataclass(frozen=True)
class Return:
    """A module that has run.

    Attributes:
        module: its path.
        outputs: how many values it returned: 1 for a tensor, of several how many; 0 if the first is no tensor.
        first: the first of them.
    """

    module: str
    outputs: int
    first: Ref


@dataclass
class Recording:
    """A forward pass: its calls, its values, which values are the model's outputs, and the sizes its modules hold.

    Attributes:
        idle: indices of calls on one tensor, whatever its size, of which nothing reaches the outputs, such as the mean
            of attention weights that nobody asked for.
        given: module path → the tensors that it was called with, of all its calls.
        trained: paths of the modules that, in training mode, make it run something else (:mod:`~.branches`).
        branches: another recording, of that, if parameters are not read otherwise.
        norms: path of a module that may be a norm that is written out (it makes a tensor of the same shape, and has
            nothing but parameters of one dimension and one size) → the first of these parameters.
        returned: every run of a module, in the order in which they ended.
    """

    calls: list[Call] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    outputs: tuple[Ref, ...] = ()
    idle: frozenset[int] = frozenset()
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    given: dict[str, list[Ref]] = field(default_factory=dict)
    trained: frozenset[str] = frozenset()
    branches: Recording | None = None
    norms: dict[str, str] = field(default_factory=dict)
    returned: list[Return] = field(default_factory=list)


def unread(recording: Recording) -> set[str]:
    """Names of parameters that no operator read."""
    read = {ref.index for call in recording.calls for ref in call.reads}
    parameters = [(index, value.name) for index, value in enumerate(recording.values) if value.source == "parameter"]
    found = {name for index, name in parameters if index not in read}
    return found if recording.branches is None else found & unread(recording.branches)


def idle(recording: Recording) -> frozenset[int]:
    """Indices of calls on one tensor, of any size, of which nothing reaches the outputs."""
    needed, found = {ref.index for ref in recording.outputs}, set[int]()
    for index, one in reversed(list(enumerate(recording.calls))):
        written = one.in_place or one.mutates or not needed.isdisjoint(ref.index for ref in one.outputs)
        if not written and len(one.reads) == 1 and (one.pointwise or one.op in _OF_ANY_SIZE):
            found.add(index)
        else:
            needed.update(ref.index for ref in one.reads)
    return frozenset(found)


_OF_ANY_SIZE = frozenset({"mean", "sum", "amax", "amin", "var", "std", "squeeze", "unsqueeze"})
