"""Which settings of sparse training go together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hwprune.errors import InputError

if TYPE_CHECKING:
    from hwprune.compression.config import CompressConfig

NOTHING: Final = "none"
_ONLY_SPARSE = ("sparsity", "pattern", "initial_density", "stay_dense", "storage")
_CHOOSE = "give --sparsity 0.9 (share of zeros), or --size 200kB, which zeros then meet"


def share(text: str) -> float:
    """A share of zeros as typed: ``0.9`` or ``90%``.

    Raises:
        InputError: no number, or none between 0 and 1.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 < value < 1:
        raise InputError(
            f"sparsity {text!r} is no share between 0 and 1", hint="nine zeros in ten weights are 0.9 or 90%"
        )
    return value


def block(text: str) -> tuple[int, int]:
    """N and M of a pattern as typed: ``2:4``.

    Raises:
        InputError: it is something else.
    """
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text)
    if match is None:
        raise InputError(f"pattern {text!r} is not N:M", hint="such as 2:4, two of four inputs in a row")
    return int(match[1]), int(match[2])


def check_sparse(config: CompressConfig) -> None:
    """Refuse settings of sparse training that do not go together.

    Raises:
        InputError: saying which, and what to do.
    """
    rule = config.sparsify
    if rule == NOTHING:
        given = [f"--{name.replace('_', '-')}" for name in _ONLY_SPARSE if getattr(config, name)]
        if given:
            raise InputError(
                f"{', '.join(given)}: nothing becomes sparse", hint="choose a rule with --sparsify, such as gmp"
            )
        return
    _check_amount(config)
    if config.initial_density is not None and rule != "granet":
        raise InputError(f"--sparsify {rule} takes no --initial-density", hint="leave it out, or use --sparsify granet")
    if not config.budgets and (config.regrow != "none" or config.remove_blocks):
        raise InputError(
            "--regrow and --remove-blocks are about channels, and no budget is given for which they are cut",
            hint="leave them out, or add such a budget: --latency 0.5x",
        )
    if rule == "recoverable" and config.distill == 1:
        raise InputError(
            "--sparsify recoverable adds a penalty to the loss, which --distill 1 leaves out",
            hint="give --distill less than 1",
        )
    _ = config.density, config.file_budget, config.stored_as  # refuse malformed ones


def _check_amount(config: CompressConfig) -> None:
    """How sparse: exactly one setting says so."""
    rule, size, sparsity = config.sparsify, config.size is not None, config.sparsity is not None
    if rule == "nm":
        if size or sparsity:
            raise InputError(
                f"--sparsify nm has its zeros by a pattern, not by {'--size' if size else '--sparsity'}",
                hint="leave that out, and give --pattern 2:4 or another one",
            )
        return
    if config.pattern is not None:
        raise InputError(f"--sparsify {rule} takes no --pattern", hint=f"use --sparsify nm, or {_CHOOSE}")
    if size == sparsity:
        raise InputError(
            "--sparsity and --size both say how many zeros there are" if size else "how sparse is not said",
            hint="leave one of them out" if size else _CHOOSE,
        )
