"""Proof that a cut network computes what the original computes with those channels switched off."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hwprune.errors import SurgeryError
from hwprune.network.branches import comparable, training_outputs
from hwprune.network.difference import Run, moved, relative_error, unlike_part
from hwprune.network.forward import Example, outputs_of, random_like, what_failed
from hwprune.network.masking import masked
from hwprune.network.network import Network
from hwprune.network.wrappers import unwrapped

TOLERANCE = 1e-4
TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class CutReport:
    """What :func:`verify_cut` found.

    Attributes:
        max_relative_error: largest difference to the masked original, relative to the largest output.
        parameters: elements in all parameters of the smaller network.
        expected_parameters: the same, computed from the cuts alone.
    """

    max_relative_error: float
    parameters: int
    expected_parameters: int


def verify_cut(
    original: nn.Module,
    smaller: nn.Module,
    network: Network,
    kept: Mapping[str, Sequence[int]],
    example: Example,
    *,
    tolerance: float | None = None,
) -> CutReport:
    """Check shapes, parameter count, and outputs against the masked original.

    What modules return in training only is compared as well, where it is the same every time.

    Args:
        original: the dense network; not modified.
        smaller: ``cut(original, network.cuts(kept))``; not modified.
        network: the trace of ``original``.
        kept: group name → channels that stay.
        example: input of forward, batch first; a random input of the same shapes is tried as well.
        tolerance: of the largest difference, relative to the largest output; :func:`tolerance_for` if absent.

    Returns:
        The numbers.

    Raises:
        SurgeryError: the first check that fails, with its numbers.
    """
    original = unwrapped(original)
    tolerance = tolerance_for(original) if tolerance is None else tolerance
    expected = _check_sizes(original, smaller, network.cuts(kept))
    count = sum(parameter.numel() for parameter in smaller.parameters())
    if count != expected:
        raise SurgeryError(f"the smaller network has {count} parameters, not {expected}")
    reference = functools.cache(lambda: masked(original, network, kept))
    trained, error = comparable(original, example), 0.0
    runs: list[Run] = [outputs_of, *([] if trained is None else [functools.partial(training_outputs, paths=trained)])]
    for inputs, run in itertools.product((example, random_like(example)), runs):
        error = max(error, compare_outputs(reference, smaller, inputs, tolerance=tolerance, run=run))
    return CutReport(error, count, expected)


def tolerance_for(model: nn.Module) -> float:
    """What rounding alone may make of sums in another order: 1e-4, in float16 1e-2, in bfloat16 5e-2.

    That is ten units of rounding (six of bfloat16), where a wrong cut makes tens of percent; in half precision a small
    fault may hide in it. A model of several types is held to the coarsest.
    """
    return max((TOLERANCES.get(parameter.dtype, TOLERANCE) for parameter in model.parameters()), default=TOLERANCE)


def compare_outputs(
    reference: Callable[[], nn.Module],
    smaller: nn.Module,
    example: Example,
    *,
    tolerance: float,
    run: Run = outputs_of,
) -> float:
    """The largest difference between the outputs of two networks, relative to the largest value of an output.

    Every slice of an output along every dimension is also held against its own largest value, but for what rounding
    may make of it. ``reference`` is called only if the smaller network runs at all.

    Raises:
        SurgeryError: forward of either fails, shapes differ, or the difference is too large.
    """
    try:
        actual = run(smaller, example)
    except Exception as error:
        raise forward_failed(smaller, error) from error
    original = reference()
    try:
        wanted = run(original, example)
    except Exception as error:
        why = what_failed(original, error)
        raise SurgeryError(f"forward of the original with those channels switched off fails: {why}") from error
    check_shapes([tensor.shape for tensor in actual], [tensor.shape for tensor in wanted])
    worst = max(relative_error(one, other) for one, other in zip(actual, wanted, strict=True))
    part = (
        (worst, "")
        if worst > tolerance
        else unlike_part(actual, wanted, lambda: moved(smaller, example, run), tolerance)
    )
    if part is not None:
        raise SurgeryError(
            f"the smaller network differs from the original with those channels switched off "
            f"(relative error {part[0]:.2g}{part[1]}, allowed {tolerance:.2g})"
        )
    return worst


def forward_failed(smaller: nn.Module, error: BaseException) -> SurgeryError:
    """What to raise when the forward of a cut network raised this."""
    return SurgeryError(f"forward of the smaller network fails: {what_failed(smaller, error)}")


def check_shapes(found: Sequence[torch.Size], wanted: Sequence[torch.Size]) -> None:
    """Compare the shapes of a cut network's outputs with the original's.

    Raises:
        SurgeryError: they differ.
    """
    if list(found) != list(wanted):
        shapes = [tuple(shape) for shape in found], [tuple(shape) for shape in wanted]
        raise SurgeryError(f"the smaller network returns shapes {shapes[0]}, the original {shapes[1]}")


def _check_sizes(original: nn.Module, smaller: nn.Module, cuts: Mapping[str, Mapping[int, Sequence[int]]]) -> int:
    """Compare every parameter's shape with what the cuts say; return the number of parameters to expect."""
    actual = {name: tuple(parameter.shape) for name, parameter in smaller.named_parameters()}
    total = 0
    for name, parameter in original.named_parameters():
        if any(list(dims.values()) == [[]] and name.startswith(f"{path}.") for path, dims in cuts.items()):
            continue  # removed with its block
        shape = list(parameter.shape)
        for dim, positions in cuts.get(name, {}).items():
            shape[dim] = len(positions)
        if actual.get(name) != tuple(shape):
            raise SurgeryError(f"{name} has shape {actual.get(name)}, not {tuple(shape)}")
        total += math.prod(shape)
    return total
