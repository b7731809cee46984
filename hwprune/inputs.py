"""What a model is fed, as users write it; without torch, so that a slip in it is told at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hwprune.errors import InputError

FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGER = ("uint8", "int8", "int16", "int32", "int64")
DTYPES = (*FLOATING, *INTEGER, "bool")
EXAMPLES = "1,3,224,224, or for several 'input_ids=1,128:int64<30522;attention_mask=1,128:int64'"


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of a model.

    Attributes:
        shape: batch first.
        name: the argument of ``forward``; None for the one at its position.
        dtype: element type (``int64``); None for the floating point type of the model's own parameters.
        below: whole numbers are drawn from 0 to one less than this.

    Raises:
        InputError: a value that no input can have.
    """

    shape: tuple[int, ...]
    name: str | None = None
    dtype: str | None = None
    below: int = 2

    def __post_init__(self) -> None:
        if not self.shape or any(size < 1 for size in self.shape):
            raise InputError(
                f"input shape {self.shape} is not a shape: it has no batch, or a size below 1",
                hint=f"batch first, such as {EXAMPLES}",
            )
        if self.name is not None and not self.name.isidentifier():
            raise InputError(f"input name {self.name!r} is no name of an argument", hint=f"such as {EXAMPLES}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"input type {self.dtype!r} is unknown", hint=f"one of {', '.join(DTYPES)}")
        if self.below < 1:
            raise InputError(f"input bound <{self.below} leaves no number", hint="whole numbers start at 0: <2 or more")
        if self.dtype in INTEGER and self.below > _numbers(self.dtype):
            raise InputError(
                f"input bound <{self.below} is more than {self.dtype} holds",
                hint=f"at most <{_numbers(self.dtype)}, or a larger type",
            )


def _numbers(dtype: str) -> int:
    """How many whole numbers from 0 on a type can tell apart."""
    signed, bits = dtype.startswith("int"), int(dtype.lstrip("uint"))
    return (1 << (bits - signed)) - (bits == 64)  # torch cannot be told of the last one


def parse_inputs(text: str) -> tuple[Input, ...]:
    """Read ``1,3,224,224`` or ``input_ids=1,128:int64<30522;attention_mask=1,128:int64<2``.

    Each input is ``name=`` (of an argument of ``forward``; all have one, or none), its shape with the batch first,
    ``:dtype``, and for whole numbers ``<N``: they are drawn from 0 to N - 1, and without it are 0 or 1.

    Raises:
        InputError: saying which part is wrong.
    """
    inputs = tuple(_parsed(part.strip()) for part in text.strip().rstrip(";").split(";"))
    if max(len(one.shape) for one in inputs) < 2:
        raise InputError(f"input shape {text!r} is not a shape", hint=f"give sizes batch first, such as {EXAMPLES}")
    names = [one.name for one in inputs if one.name is not None]
    if len(set(names)) < len(names):
        raise InputError(f"input shape {text!r} gives one name twice", hint="every argument of forward has one shape")
    if names and len(names) < len(inputs):
        raise InputError(f"input shape {text!r} names some inputs only", hint="name all of them, or none")
    return inputs


_FORM = re.compile(r"(?:(?P<name>[^=]*)=)?(?P<shape>[^:<=]*)(?::(?P<dtype>[^:<=]*))?(?:<(?P<below>[^:<=]*))?")


def _parsed(part: str) -> Input:
    found = _FORM.fullmatch(part)
    try:
        if found is None:
            raise ValueError(part)
        shape = tuple(int(size) for size in found["shape"].replace("x", ",").split(","))
        below = None if found["below"] is None else int(found["below"])
    except ValueError:
        raise InputError(
            f"input shape {part!r} is not a shape", hint=f"give sizes batch first, such as {EXAMPLES}"
        ) from None
    name, dtype = (value if value is None else value.strip() for value in (found["name"], found["dtype"]))
    if below is not None and dtype not in INTEGER and dtype in (None, *DTYPES):
        raise InputError(
            f"input {part!r} has a bound, and is not of whole numbers", hint="give a type before it, such as :int64<2"
        )
    return Input(shape=shape, name=name, dtype=dtype, below=2 if below is None else below)


def read_inputs(value: str | Sequence[int]) -> tuple[Input, ...]:
    """As :func:`parse_inputs`, of text or of one shape.

    Raises:
        InputError: as there.
    """
    return parse_inputs(value if isinstance(value, str) else ",".join(map(str, value)))


def spelled(inputs: Sequence[Input]) -> str | tuple[int, ...]:
    """The inputs as :func:`read_inputs` reads them, one way for the same inputs: a shape, if that is all."""
    if len(inputs) == 1 and inputs[0] == Input(shape=inputs[0].shape):
        return inputs[0].shape
    return ";".join(
        (f"{one.name}=" if one.name else "")
        + ",".join(map(str, one.shape))
        + (f":{one.dtype}" if one.dtype else "")
        + (f"<{one.below}" if one.dtype in INTEGER and one.below != 2 else "")
        for one in inputs
    )
