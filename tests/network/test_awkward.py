"""Awkward modules: what a person says can be cut is what tracing says, and every random cut of it is right."""

from __future__ import annotations

import functools

import pytest

from hwprune.network import trace

from . import (  # noqa: F401 (they put their modules on the table)
    awkward,
    awkward_groups,
    awkward_pieces,
    awkward_sequences,
    awkward_tricks,
    awkward_weights,
    awkward_widths,
)
from .handwritten import CASES, check_groups, check_random_cuts

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.module.__name__)


@functools.cache
def traced(case):
    return trace(case.model(), case.example)


@each
def test_the_groups_are_those_written_out_by_hand(case):
    check_groups(case, traced(case))


@each
def test_random_cuts_equal_the_original_with_those_channels_masked(case):
    check_random_cuts(case, traced(case))
