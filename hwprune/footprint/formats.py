"""How many bytes an exported engine spends on an element, in each precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwprune.errors import InputError


@dataclass(frozen=True)
class Format:
    """What one element takes.

    Attributes:
        weight: of the weights of convolutions and linear layers.
        weight_channel: for every output channel of these, besides.
        bias: of their biases.
        other: of every other stored number: normalisations, position codes.
        activation: of what flows between layers.
    """

    weight: int
    weight_channel: int
    bias: int
    other: int
    activation: int


FORMATS = {
    "fp32": Format(weight=4, weight_channel=0, bias=4, other=4, activation=4),
    "fp16": Format(weight=2, weight_channel=0, bias=2, other=2, activation=2),
    # A graph with QuantizeLinear and DequantizeLinear: a float32 scale and an int8 zero point for every filter; a bias
    # is an int32 with a float32 scale and an int32 zero point.
    "int8": Format(weight=1, weight_channel=5, bias=12, other=4, activation=1),
}


def format_of(precision: str) -> Format:
    """The format that engines of a precision use.

    Raises:
        InputError: an unknown precision.
    """
    if precision not in FORMATS:
        raise InputError(f"precision {precision!r} is unknown", hint=f"known: {', '.join(FORMATS)}")
    return FORMATS[precision]


def itemsize(dtype: str, floating: int) -> int:
    """Bytes of one element: what the format says for floating-point numbers, its own size for anything else."""
    return floating if "float" in dtype else np.dtype(dtype).itemsize
