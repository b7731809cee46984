"""Errors travel from one process to another."""

from __future__ import annotations

import pickle

import pytest

from hwprune.errors import BudgetError, ElsewhereError, HwpruneError, InfeasibleError, MissingLatencyError

ERRORS = [
    BudgetError("too little", hint="ask for more"),
    InfeasibleError("none fits", least={"macs": 3.0}, hint="ask for 3"),
    ElsewhereError(2, MissingLatencyError("no entry")),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_all_of_an_error_arrives(error: HwpruneError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.message, arrived.hint) == (str(error), error.message, error.hint)
    assert getattr(arrived, "least", None) == getattr(error, "least", None)
    assert repr(getattr(arrived, "error", None)) == repr(getattr(error, "error", None))
