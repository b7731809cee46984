"""Every error hwprune raises on purpose.

The hierarchy::

    HwpruneError                what went wrong, and a hint at the way out
    ├── InputError              something the user gave is wrong (exit status 2)
    │   ├── ModelError          the model cannot be loaded, run or traced
    │   ├── DataError           a data set cannot be read
    │   ├── TableError          a latency table is malformed, or is of another device
    │   ├── MissingLatencyError the table has no entry for a layer
    │   ├── BundleError         a bundle is malformed or its files were changed
    │   └── BudgetError         the budget is malformed or out of reach
    ├── InfeasibleError         a problem has no solution inside its budgets
    ├── MeasurementError        the device was too busy to measure
    ├── SurgeryError            a cut network failed its own verification
    ├── ParityError             an exported engine does not compute what the model computes
    └── ElsewhereError          another process of the run failed, and says why

Beside it, :class:`ModelWarning` tells what was made of a model that is not taken as it was given.
"""

from __future__ import annotations

from typing import Any


class HwpruneError(Exception):
    """Base of every deliberate error.

    Args:
        message: what was wrong, with the value that was received.
        hint: what is allowed and what to do next; shown on its own line.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self), *self.args), vars(self)


class InputError(HwpruneError):
    """Something the user gave is wrong; nothing was written."""


class ModelError(InputError):
    """The model cannot be loaded, run or traced."""


class ModelWarning(UserWarning):
    """The model was given in a form that is not taken as it is; says what is taken instead."""


class DataError(InputError):
    """A data set cannot be read."""


class TableError(InputError):
    """A latency table is malformed, or belongs to another device or target."""


class MissingLatencyError(InputError):
    """The table has no entry for a layer; the message names the key and its neighbours."""


class BundleError(InputError):
    """A bundle is malformed, or its files do not match their recorded hashes."""


class BudgetError(InputError):
    """A budget is malformed, or below the least that can be reached."""


class InfeasibleError(HwpruneError):
    """A problem has no solution inside its budgets.

    Args:
        least: for each budget, the least value any choice of widths could give it.
    """

    def __init__(self, message: str, *, least: dict[str, float], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.least = least


class MeasurementError(HwpruneError):
    """The device was too busy (or too unstable) for a number worth reporting."""


class SurgeryError(HwpruneError):
    """A cut network failed its own verification."""


class ParityError(HwpruneError):
    """An exported engine does not compute what the model computes."""


class ElsewhereError(HwpruneError):
    """Another process of the same run failed; it says why, this one only ends with it.

    Args:
        rank: of the process that failed.
        error: what ended it.
    """

    def __init__(self, rank: int, error: BaseException) -> None:
        super().__init__(f"process {rank} of the run failed: {type(error).__name__}: {error}")
        self.rank, self.error = rank, error


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return str(error).strip().partition("\n")[0]
