"""Awkward modules: what a person says can be cut is what tracing says, and every random cut of it is right."""

from __future__ import annotations

import functools

import pytest
import torch

from hwprune.network import cut, trace, verify_cut

from . import awkward, awkward_groups, awkward_pieces, awkward_sequences, awkward_weights  # noqa: F401 (they put their modules on the table)
from .handwritten import CASES, as_written

TOLERANCE = 1e-5
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.module.__name__)


@functools.cache
def traced(case_):
    return trace(case_.model(), case_.example)


@each
def test_the_groups_are_those_written_out_by_hand(case):
    network = traced(case)
    found = {group.name: as_written(group) for group in network.cuttable}
    reasons = {group.name: group.frozen for group in network.frozen}
    assert {name: len(group) for name, group in found.items()} == {
        name: len(group) for name, group in case.cuttable.items()
    }, reasons
    for name, group in case.cuttable.items():
        assert found[name] == group
    assert reasons.keys() == case.frozen.keys()
    assert {name: why for name, why in reasons.items() if case.frozen[name] not in why} == {}


@each
def test_random_cuts_equal_the_original_with_those_channels_masked(case):
    model, network = case.model(), traced(case)
    generator = torch.Generator().manual_seed(1)
    for draw in range(5):
        kept = {}
        for group in network.cuttable:
            count = 1 if draw == 4 else int(torch.randint(1, group.channels + 1, (), generator=generator))
            kept[group.name] = sorted(torch.randperm(group.channels, generator=generator)[:count].tolist())
        smaller = cut(model, network.cuts(kept))
        report = verify_cut(model, smaller, network, kept, case.example, tolerance=TOLERANCE)
        assert report.parameters == report.expected_parameters <= network.total_parameters
