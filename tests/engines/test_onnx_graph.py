"""The reader of ONNX against the onnx package."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.device_runner import BadInput
from hwprune.engines.onnx_graph import Graph

from . import networks

MODEL = networks.padded().serialised()


@pytest.mark.parametrize("build", networks.ALL.values(), ids=networks.ALL)
def test_it_reads_what_onnx_reads(build: Callable[[], networks.Network]) -> None:
    content = build().serialised()
    theirs = onnx.load_from_string(content).graph
    mine = Graph(content)
    assert [tuple(node) for node in mine.nodes] == [
        (node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in theirs.node
    ]
    for value in (value for node in theirs.node for value in node.output):
        assert value in mine.producer[value].outputs
        assert [one.name for one in mine.consumers.get(value, [])] == [
            node.name for node in theirs.node for given in node.input if given == value
        ]


def test_what_is_behind_a_node() -> None:
    graph = Graph(networks.residual().serialised())
    names = [node.name for node in graph.behind(graph.by_name["n13"], {"v7", "v8"})]
    assert names == ["n9", "n10", "n11", "n12", "n13"]
    assert [node.name for node in graph.behind(graph.by_name["n1"], ())] == ["n0", "n1"]


def test_a_node_that_nobody_answers_for_runs_where_its_last_operand_was_computed() -> None:
    graph = Graph(networks.residual().serialised())
    products = {"n0": 0, "n3": 2, "n5": 3, "n8": 5, "n9": 4, "n11": 6, "n16": 8}
    settled = graph.settled({**products, "n2": 1, "n14": 7})
    assert settled == {
        **{"n0": 0, "n1": 0, "n2": 1, "n3": 2, "n4": 2, "n5": 3, "n6": 3, "n7": 3, "n8": 5, "n9": 4, "n10": 4},
        **{"n11": 6, "n12": 6, "n13": 6, "n14": 7, "n15": 7, "n16": 8},
    }


def reads_or_refuses(content: bytes) -> None:
    with suppress(BadInput):
        graph = Graph(content)
        graph.settled({})


@given(st.binary(max_size=200))
def test_anything(content: bytes) -> None:
    reads_or_refuses(content)


@given(place=st.integers(0, len(MODEL) - 1), content=st.binary(max_size=4), cut=st.integers(0, 40))
def test_mutated_models(place: int, content: bytes, cut: int) -> None:
    reads_or_refuses(MODEL[:place] + content + MODEL[place + cut :])


def test_cut_short() -> None:
    with pytest.raises(BadInput, match="no ONNX model"):
        Graph(MODEL[:-1])
