"""An operand of which several dimensions vary."""

from __future__ import annotations

from hwprune.budget import Axis
from hwprune.latency import Layer, Operand, sizes_of

HEADS, SIZE = Axis(terms=(("heads", 2),)), Axis(terms=(("size", 1),))
QUERIES = Operand((1, 8, 17, 6), 1, HEADS, ((3, SIZE),))


def test_its_shape_and_its_positions() -> None:
    widths = {"heads": 3, "size": 4}
    assert QUERIES.at(widths) == (1, 6, 17, 4)
    assert QUERIES.positions.size(widths) == 24
    assert QUERIES.positions.groups == ("heads", "size")


def test_an_operator_is_priced_at_as_many_heads_of_full_size() -> None:
    layer = Layer(name="mul", op="mul", inputs=(QUERIES,), output=QUERIES, call={"target": "aten.mul.Tensor"})
    assert sizes_of(layer) == (8,)
    assert sizes_of(layer, {"heads": 4, "size": 3}) == sizes_of(layer, {"heads": 2, "size": 6}) == (4,)
    assert sizes_of(layer, {"heads": 1, "size": 1}) == (1,)


def test_a_layer_with_weights_is_priced_by_its_channels_alone() -> None:
    layer = Layer(name="fc", op="linear", inputs=(QUERIES,), output=QUERIES, attributes={"bias": True})
    assert sizes_of(layer, {"heads": 2, "size": 3}) == (4, 4)


def test_dimensions_of_one_group_are_counted_once() -> None:
    gram = Operand((1, 8, 8), 1, HEADS, ((2, HEADS),))
    assert gram.positions == HEADS
    assert gram.at({"heads": 3}) == (1, 6, 6)


def test_multiply_accumulates_follow_all_dimensions() -> None:
    layer = Layer(name="fc", op="linear", inputs=(QUERIES,), output=QUERIES, macs=8 * 8 * 6)
    assert layer.macs_at({"heads": 2, "size": 3}) == 4 * 4 * 3
