"""``hwprune predict`` shows parameters, weights and memory beside the latency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from hwprune.budget import Plan
from hwprune.footprint import footprint
from hwprune.latency import LatencyTable
from hwprune.network import load_model, trace
from hwprune.targets import runtime_for
from hwprune.verbs import predict, predict_all

from ..pruning.made_up import made_up_table

MODEL = "zoo:digits_resnet"


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return made_up_table(trace(load_model(MODEL), torch.zeros(1, 1, 32, 32)))


@pytest.mark.parametrize("half", [False, True])
def test_the_verb_gives_both(half: bool, table: LatencyTable) -> None:
    network = trace(load_model(MODEL), torch.zeros(1, 1, 32, 32))
    widths = {group.name: group.channels // (2 if half else 1) for group in network.cuttable}
    prediction, taken = predict_all(MODEL, input_shape=(1, 1, 32, 32), table=table, plan=Plan(widths=widths))
    assert prediction == predict(MODEL, input_shape=(1, 1, 32, 32), table=table, plan=Plan(widths=widths))
    assert taken == footprint(network, runtime_for(table.target), "fp32", widths)
    dense = sum(parameter.numel() for parameter in load_model(MODEL).parameters())
    assert taken.parameters < dense / 2 if half else taken.parameters == dense


def test_the_command_line_lists_every_layer(hwprune: Any, table: LatencyTable) -> None:
    line = f"predict --model {MODEL} --input-shape 1,1,32,32 --table made-up.json --layers"
    with mock.patch.object(LatencyTable, "load", lambda path: table if path == Path("made-up.json") else None):
        answer = hwprune(f"{line} --json")
        text = hwprune(line)
    assert (answer.status, text.status) == (0, 0), answer.err + text.err
    document = json.loads(answer.out)
    layers = document["layers"]
    assert document["parameters"] == sum(layer["parameters"] for layer in layers)
    assert document["size_bytes"] == sum(layer["weight_bytes"] for layer in layers)
    held = [layer["held_bytes"] for layer in layers if layer["held_bytes"] is not None]
    assert len(held) < len(layers)  # some run inside another's kernel
    assert document["peak_memory_bytes"] == document["size_bytes"] + max(held)
    rows = {line.split()[4]: line.split() for line in text.out.splitlines() if line.endswith(")") and "  " in line[:12]}
    for layer in layers:
        row = rows[layer["name"]]
        shown = "-" if layer["held_bytes"] is None else str(layer["held_bytes"])
        assert row[1:4] == [str(layer["parameters"]), str(layer["weight_bytes"]), shown]
    assert f"{document['peak_memory_bytes']} bytes of memory" in text.out
