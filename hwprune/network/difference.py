"""How far two outputs are apart: as a whole, and in each of their parts.

What is small beside the rest of an output, such as one of several maps that were joined, would hide in a comparison
with the largest number of all. So every slice along every dimension is held against its own largest number. Where
terms cancel, that is not much more than rounding, and says nothing; so what rounding makes of a slice is allowed for,
found by changing the network's parameters and input in their last digit (our decision; the idea is that of backward
error, Higham, Accuracy and Stability of Numerical Algorithms, section 1.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from hwprune.network.forward import Example, cloned, tensors_in

CHANGES = 7  # of last digits, smallest first, as many as it takes; a single one may leave a slice as it is by chance
ROUNDINGS = 30.0  # rounding may take a slice so much further than such a change; on 18 architectures, at most 3

Run = Callable[[nn.Module, Example], Sequence[torch.Tensor]]


def relative_error(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest value; infinite where other elements are finite or whole."""
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return 0.0 if torch.equal(actual, wanted) else math.inf
    if not wanted.numel():
        return 0.0
    if not (torch.isfinite(actual) == torch.isfinite(wanted)).all():
        return math.inf
    difference, scale = (_sizes(one).max().item() for one in (_difference(actual, wanted), wanted))
    return difference / scale if scale else (math.inf if difference else 0.0)


def unlike_part(
    actual: Sequence[torch.Tensor],
    wanted: Sequence[torch.Tensor],
    moved: Callable[[], Iterable[Sequence[torch.Tensor]]],
    tolerance: float,
) -> tuple[float, str] | None:
    """The first slice that differs from what is wanted by more than rounding.

    Args:
        actual: outputs that are the same as a whole, by :func:`relative_error`.
        wanted: what they should be.
        moved: gives what ``actual`` becomes when last digits change, several times; called only in doubt.
        tolerance: of the largest difference in a slice, relative to the largest value in it.

    Returns:
        The relative error, and which slice it is, in words; None if there is no such slice.
    """
    doubtful = {
        (number, dim): (difference, scale, torch.zeros_like(scale))
        for number, (one, other) in enumerate(zip(actual, wanted, strict=True))
        if (other.is_floating_point() or other.is_complex()) and other.numel()
        for dim, (difference, scale) in enumerate(
            zip(_by_slice(_difference(one, other)), _by_slice(other), strict=True)
        )
        if (difference > tolerance * scale).any()
    }
    for again in moved() if doubtful else ():
        for (number, dim), (difference, scale, rounding) in list(doubtful.items()):
            change = _by_slice(_difference(again[number], actual[number]))[dim]
            torch.maximum(rounding, change, out=rounding)
            if (difference <= tolerance * scale + ROUNDINGS * rounding).all():
                del doubtful[number, dim]
        if not doubtful:
            break
    for (number, dim), (difference, scale, rounding) in doubtful.items():
        worst = int((difference - tolerance * scale - ROUNDINGS * rounding).argmax())
        place = f" at {worst} of dimension {dim}" + (f" of output {number}" if len(wanted) > 1 else "")
        return (difference / scale)[worst].item(), place
    return None


def moved(model: nn.Module, example: Example, run: Run) -> Iterator[Sequence[torch.Tensor]]:
    """What a network answers when the last digits of its parameters and of its input are others, several times.

    Args:
        model: the same afterwards.
        example: its input.
        run: makes outputs of both.
    """
    for digits in range(1, CHANGES + 1):
        given = cloned(example)
        with torch.no_grad(), _last_digits_changed((*model.parameters(), *tensors_in(given)), digits):
            answer = run(model, given)
        yield answer


@contextmanager
def _last_digits_changed(tensors: Sequence[torch.Tensor], digits: int) -> Iterator[None]:
    """Other last binary digits in all of these, in place; which way a number goes depends on the digits it had."""
    for tensor in tensors:
        _flip(tensor, digits)
    try:
        yield
    finally:
        for tensor in tensors:
            _flip(tensor, digits)


def _flip(tensor: torch.Tensor, digits: int) -> None:
    """Flip these of the last binary digits; of what is zero or no number, none. Twice is nothing."""
    bits = _BITS.get(tensor.dtype)
    if bits is None or tensor.layout is not torch.strided:
        return
    held, range_of = tensor.detach(), torch.finfo(tensor.dtype)
    for part in torch.split(held.view(-1), _PART) if held.is_contiguous() else (held,):
        size = part.abs()
        ordinary = (size >= range_of.tiny) & (size <= range_of.max)
        part.view(bits).bitwise_xor_(ordinary.to(bits).mul_(digits))


_PART = 1 << 17  # numbers that stay in the cache of a processor
_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}  # as many


def _difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Zero where both are the same infinity, or no number."""
    wide = torch.complex128 if other.is_complex() else torch.float64
    return (one.to(wide) - other.to(wide)).masked_fill_(~torch.isfinite(other), 0.0)


def _sizes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.abs().double().nan_to_num(0.0, 0.0, 0.0)


def _by_slice(tensor: torch.Tensor) -> list[torch.Tensor]:
    """For every dimension, the largest size in each slice along it."""
    sizes = _sizes(tensor)
    dims = set(range(sizes.dim()))
    return [sizes.amax([*dims - {dim}]) if len(dims) > 1 else sizes for dim in sorted(dims)]
