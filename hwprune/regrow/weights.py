"""Which parameters of a model are masked, and why the others are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from hwprune.errors import ModelError
from hwprune.regrow.layout import Layout


@dataclass(frozen=True)
class Weight:
    """A parameter that can be masked.

    Attributes:
        parameter: of the model, live.
        layout: which of its dimensions are inputs.
    """

    parameter: nn.Parameter
    layout: Layout


Refuses = Callable[[Weight], str]


def find_weights(
    model: nn.Module, *, first_dense: bool = False, exclude: Sequence[str] = (), refuses: Refuses = lambda _: ""
) -> tuple[dict[str, Weight], dict[str, str]]:
    """The parameters to mask: those of two or more dimensions that are trained.

    Parameters that the model computes with in more than one place count once. Any floating-point type will do; scores
    are computed in float32 at least.

    Args:
        model: the bare module.
        first_dense: whether the first of them, in the order of ``model.named_parameters()``, is left out.
        exclude: patterns of names to leave out: of a parameter or of a module above it, with ``*`` and ``?``.
        refuses: says why a weight is left out, or nothing.

    Returns:
        name → weight, and name → reason why a parameter of two or more dimensions is left out.

    Raises:
        ModelError: nothing is left to mask, a pattern fits no parameter, or a parameter is not what is trained: it is
            parametrised, not yet initialised or a tensor of its own kind (sharded, quantised).
    """
    found, left_out, used = dict[str, Weight](), dict[str, str](), set[str]()
    owners, names = _owners(model)
    for place, (name, parameter) in enumerate(_of_two_dimensions(model)):
        patterns = {pattern for pattern in exclude for one in names[id(parameter)] if _fits(one, pattern)}
        used |= patterns
        module, own_name = owners[name]
        if patterns:
            left_out[name] = "excluded by name"
        elif not parameter.requires_grad:
            left_out[name] = "frozen (requires_grad is False)"
        elif first_dense and place == 0:
            left_out[name] = "the first layer stays dense"
        else:
            _check(name, parameter, module)
            weight = Weight(parameter, Layout.of(module, own_name))
            if reason := refuses(weight):
                left_out[name] = reason
            else:
                found[name] = weight
    _check_all(found, left_out, set(exclude) - used)
    return found, left_out


def _check_all(found: dict[str, Weight], left_out: dict[str, str], unused: set[str]) -> None:
    if unused:
        raise ModelError(
            f"exclude has {sorted(unused)}, which fits no parameter of two or more dimensions",
            hint=f"their names: {', '.join([*found, *left_out]) or 'there are none'}",
        )
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ModelError(
            f"the model has nothing to mask: {reasons or 'no parameter of two or more dimensions'}",
            hint="weights of two or more dimensions that are trained are masked; give the bare module and exclude less",
        )


def _owners(model: nn.Module) -> tuple[dict[str, tuple[nn.Module, str]], dict[int, list[str]]]:
    """Parameter's name → its module and its name there; parameter's id → all names that it has."""
    owners, names = dict[str, tuple[nn.Module, str]](), defaultdict[int, list[str]](list)
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{prefix}.{name}" if prefix else name
            owners[full] = module, name
            names[id(parameter)].append(full)
    return owners, names


def _of_two_dimensions(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [pair for pair in model.named_parameters() if is_lazy(pair[1]) or pair[1].ndim >= 2]


def _fits(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _check(name: str, parameter: nn.Parameter, module: nn.Module) -> None:
    if problem := _problem(name, parameter, module):
        raise ModelError(f"parameter {name} {problem[0]}", hint=f"{problem[1]}, or exclude it by name")


def _problem(name: str, parameter: nn.Parameter, module: nn.Module) -> tuple[str, str] | None:
    hooks = (type(hook).__module__ for hook in module._forward_pre_hooks.values())
    if is_lazy(parameter):
        return "is not initialised yet", "run the model once first"
    if parameter.is_meta:
        return "is on the meta device and has no values", "load the weights first"
    if type(parameter.data) is not Tensor:
        return f"is a {type(parameter.data).__name__}, of which hwprune cannot mask single elements", "use a plain one"
    if not parameter.is_floating_point():
        return f"is of type {parameter.dtype}", "use floating-point weights"
    if ".parametrizations." in f".{name}" or isinstance(module, parametrize.ParametrizationList):
        return "is not the weight itself, which a parametrization computes from it", "call remove_parametrizations"
    if any(hook.startswith("torch.nn.utils.") for hook in hooks):
        hint = "remove weight norm, spectral norm or torch's pruning from it"
        return "is not the weight itself: a hook of torch.nn.utils computes that", hint
    return None


def magnitude(tensor: Tensor) -> Tensor:
    """Magnitudes to rank by: float32, or float64 for float64."""
    value = tensor.detach().abs()
    return value if value.dtype == torch.float64 else value.float()
