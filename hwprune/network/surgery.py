"""Cutting channels out of a model: tensors are sliced, module attributes follow."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hwprune.errors import InputError, ModelError
from hwprune.network.attention import make_resizable
from hwprune.network.network import RESCALED
from hwprune.network.silence import unsilence
from hwprune.network.statistics import detach
from hwprune.network.wrappers import unwrapped

Cuts = Mapping[str, Mapping[int, Sequence[int]]]


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, without the hooks of a masked network.

    Args:
        model: left as it is.
        memo: id of an object → what takes its place.

    Raises:
        ModelError: the model cannot be copied.
    """
    try:
        found = copy.deepcopy(model, {**_empty(model), **(memo or {})})
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {type(error).__name__}: {error}",
            hint="keep tensors that are not parameters or buffers out of the module's attributes",
        ) from error
    detach(found)
    unsilence(found)
    return found


def _empty(model: nn.Module) -> dict[int, Any]:
    """Copies of the empty containers of all modules, about ten in each, which ``deepcopy`` would be slow to make."""
    held = (value for module in model.modules() for value in vars(module).values())
    return {id(one): type(one)() for one in held if type(one) in (dict, OrderedDict, set) and not one}


def cut(model: nn.Module, cuts: Cuts, *, shared: bool = False) -> nn.Module:
    """Make the smaller network; needs no tracing, so it can be replayed on a fresh instance of the model.

    Args:
        model: the dense network; not modified.
        cuts: tensor name → dimension → positions to keep (``Network.cuts``, ``Plan.cuts``); an attribute that holds
            a size counts as a tensor of one dimension. What they list under ``RESCALED`` is multiplied first. A module
            of which no position is kept is replaced by :class:`Removed`, the dimension being its ``outputs``.
        shared: tensors that lose nothing are those of the model, as is enough where nobody writes values.

    Returns:
        A deep copy whose tensors are sliced and whose module attributes (``out_channels``,
        ``num_features``…) agree with them. ``requires_grad``, training mode and shared parameters stay. Where
        ``nn.MultiheadAttention`` is cut, :class:`~hwprune.network.attention.ResizableAttention` takes its place.

    Raises:
        InputError: a name, dimension or position does not fit this model.
    """
    dense = unwrapped(model)
    named = dict(_tensors(dense))
    gone = {name for name, dims in cuts.items() if name not in named and list(dims.values()) == [[]]}
    scaled = _rescaled(named, cuts)
    pieces = {name: _sliced(name, scaled.get(name, named[name]), cuts.get(name, {})) for name in named.keys() & cuts}
    taken = {id(named[name]): piece for name, piece in {**scaled, **pieces}.items()}
    kept = {id(tensor): tensor for tensor in named.values()} if shared else {}
    smaller = copied(dense, {**kept, **taken})
    make_resizable(smaller, cuts)
    for name, dims in cuts.items():
        if name not in named and name not in gone and not name.startswith(RESCALED):
            resize(smaller, name, _size(name, smaller, dims))
    for (path, before), module in zip(dense.named_modules(), smaller.modules(), strict=True):
        _follow(path, module, _weight_shape(before))
    for name in sorted(gone):
        _remove(smaller, name, next(iter(cuts[name])))
    return smaller


class Removed(nn.Module):
    """Stands for a module of a block that was removed: returns zeros of the shape of its first input.

    Args:
        outputs: how many values it returns; 1 is a tensor, more are a tuple, of which all but the first are None.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Takes whatever the module took."""
        zeros = torch.zeros_like(next(one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)))
        return zeros if self.outputs == 1 else (zeros, *[None] * (self.outputs - 1))


def _remove(model: nn.Module, path: str, outputs: int) -> None:
    owner, _, name = path.rpartition(".")
    removed = Removed(outputs)
    try:
        removed.training = model.get_submodule(path).training
    except AttributeError:
        raise InputError(f"the plan removes {path!r}, which this model does not have", hint=_HINT) from None
    if not name or outputs < 1:
        raise InputError(f"the plan has {outputs} outputs of {path!r} removed", hint=_HINT)
    setattr(model.get_submodule(owner), name, removed)


def sizes_in(model: nn.Module) -> dict[str, dict[str, int]]:
    """Module path → public attribute → the integer it holds; of several integers, each as ``name[i]``.

    Of layers whose attributes follow their tensors anyway, none.
    """
    return {path: held for path, module in model.named_modules() if (held := dict(_integers(module)))}


def _integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    if isinstance(module, _FOLLOWING):
        return
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if type(value) is int:
            yield name, value
        elif isinstance(value, (tuple, list)) and all(type(one) is int for one in value):
            yield from ((f"{name}[{index}]", one) for index, one in enumerate(value))


def _size(name: str, model: nn.Module, dims: Mapping[int, Sequence[int]]) -> int:
    """What an attribute is to hold of which these positions are kept."""
    path, _, attribute = name.rpartition(".")
    try:
        held = dict(_integers(model.get_submodule(path))).get(attribute, 0)
    except AttributeError:
        held = 0
    kept = set(dims.get(0, ()))
    if len(dims) > 1 or not kept or not kept <= set(range(held)):
        raise InputError(f"the plan cuts {name!r}, which this model does not have", hint=_HINT)
    return len(kept)


def resize(model: nn.Module, path: str, size: int) -> None:
    """Set an attribute that holds a size, such as ``blocks.0.num_heads`` or ``scale.shape[0]``."""
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    name, _, index = name.rstrip("]").partition("[")
    if not index:
        setattr(module, name, size)
        return
    value = list(getattr(module, name))
    value[int(index)] = size
    setattr(module, name, type(getattr(module, name))(value))


_HINT = "replay the plan on the model it was made for"


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _sliced(name: str, tensor: torch.Tensor, dims: Mapping[int, Sequence[int]]) -> torch.Tensor:
    result = tensor.detach()
    for dim, positions in dims.items():
        if not 0 <= dim < tensor.dim():
            raise InputError(f"the plan cuts dimension {dim} of {name}, which has {tensor.dim()}", hint=_HINT)
        size = tensor.shape[dim]
        if (
            len(positions) == 0
            or sorted(set(positions)) != list(positions)
            or positions[0] < 0
            or positions[-1] >= size
        ):
            raise InputError(
                f"the plan keeps positions {_short(positions)} of dimension {dim} of {name}, which has {size}",
                hint=_HINT,
            )
        result = result.index_select(dim, torch.as_tensor(positions, dtype=torch.int64, device=tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, requires_grad=tensor.requires_grad)
    return result


def _rescaled(named: Mapping[str, torch.Tensor], cuts: Cuts) -> dict[str, torch.Tensor]:
    """What is to be rescaled, times the square root of the share of channels that stay."""
    found: dict[str, torch.Tensor] = {}
    for name, dims in cuts.items():
        if not name.startswith(RESCALED):
            continue
        tensor, dim = named.get(name.removeprefix(RESCALED)), max(dims, default=-1)
        rows = dims.get(dim, ())
        left, dense = dims.get(-1, (0, 0)) if len(dims.get(-1, ())) == 2 else (0, 0)
        size = tensor.shape[dim] if tensor is not None and 0 <= dim < tensor.dim() else 0
        if tensor is None or not 0 < left <= dense or not set(rows) <= set(range(size)):
            raise InputError(f"the plan has {name!r}, which this model does not have like this", hint=_HINT)
        factor = torch.ones_like(tensor, requires_grad=False)
        places = torch.as_tensor(rows, dtype=torch.int64, device=tensor.device)
        made = tensor.detach() * factor.index_fill_(dim, places, (left / dense) ** 0.5)
        is_parameter = isinstance(tensor, nn.Parameter)
        made = nn.Parameter(made, requires_grad=tensor.requires_grad) if is_parameter else made
        found[name.removeprefix(RESCALED)] = made
    return found


def _short(positions: Sequence[int]) -> str:
    return "none" if len(positions) == 0 else f"{min(positions)}…{max(positions)}"


def _weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        end = "_l0" if isinstance(module, nn.RNNBase) else ""
        return module.get_parameter(f"weight_ih{end}").shape[1], module.get_parameter(f"weight_hh{end}").shape[1]
    if isinstance(module, _FOLLOWING) or hasattr(module, "normalized_shape"):
        weight = module.weight if module.weight is not None else getattr(module, "running_mean", None)
        return tuple(weight.shape) if isinstance(weight, torch.Tensor) else None
    return None


_FOLLOWING = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.PReLU,
    nn.Embedding,
    nn.RNNBase,
    nn.RNNCellBase,
)


def _follow(path: str, module: nn.Module, before: tuple[int, ...] | None) -> None:
    """Bring a module's attributes along with its tensors."""
    after = _weight_shape(module)
    if before is None or after is None or before == after:
        return
    for name, value in _attributes(module, before, after).items():
        if isinstance(value, float):
            raise InputError(
                f"the plan leaves {path} with {after[0]} filters, not a whole number of its groups of channels",
                hint=_HINT,
            )
        setattr(module, name, value)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # which it keeps beside its parameters


def _attributes(module: Any, before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, Any]:
    if isinstance(module, nn.modules.conv._ConvNd):
        per_group = before[0] // module.groups  # dimension 0 holds all groups, dimension 1 one group's channels
        groups = module.groups if module.groups == 1 else _whole(after[0], per_group)
        ends = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
        return {"groups": groups, ends[0]: after[0], ends[1]: after[1] * groups}
    if isinstance(module, nn.Linear):
        return {"out_features": after[0], "in_features": after[1]}
    if isinstance(module, nn.GroupNorm):
        groups = 1 if module.num_groups == 1 else _whole(after[0], before[0] // module.num_groups)
        return {"num_channels": after[0], "num_groups": groups}
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return {"input_size": after[0], "hidden_size": after[1]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": after[0], "embedding_dim": after[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": after[0]}
    if hasattr(module, "normalized_shape"):  # torch's layer norm, and what is written like it
        return {"normalized_shape": after}
    return {"num_features": after[0]}


def _whole(size: int, part: int) -> int | float:
    return size // part if size % part == 0 else size / part
