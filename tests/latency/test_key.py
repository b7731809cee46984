from __future__ import annotations

import dataclasses

import pytest

from hwprune.errors import InputError
from hwprune.latency import key_of, sizes_of

from .fakes import call, conv, linear, operand


def test_channel_counts_are_not_part_of_a_key() -> None:
    narrow = conv("a", operand(1, 8, 14, 14, group="x"), operand(1, 16, 14, 14, group="y"))
    wide = conv("b", operand(1, 64, 14, 14), operand(1, 128, 14, 14, group="z"))
    assert key_of(narrow).identity == key_of(wide).identity
    assert key_of(narrow).axes == ("in_channels", "out_channels")
    assert key_of(narrow).inputs == ((1, None, 14, 14),)


@pytest.mark.parametrize(
    "other",
    [
        {"source": operand(1, 8, 15, 14)},
        {"source": operand(2, 8, 14, 14)},
        {"kernel": 1},
        {"stride": 2},
    ],
)
def test_everything_else_is(other: dict) -> None:
    source, output = operand(1, 8, 14, 14), operand(1, 16, 14, 14)
    given = {"source": source, "output": output, **other}
    assert key_of(conv("a", source, output)).identity != key_of(conv("a", **given)).identity


def test_bias_is_not_part_of_a_key() -> None:
    with_bias = conv("a", operand(1, 8, 14, 14), operand(1, 16, 14, 14))
    without = dataclasses.replace(with_bias, attributes={**with_bias.attributes, "bias": False})
    assert key_of(with_bias).identity == key_of(without).identity


def test_depthwise_convolutions_share_a_key_over_one_axis() -> None:
    def depthwise(channels: int):
        x = operand(1, channels, 14, 14, group="x")
        return conv("dw", x, x, groups=channels)

    assert key_of(depthwise(32)).identity == key_of(depthwise(96)).identity
    assert key_of(depthwise(32)).axes == ("channels",)
    assert key_of(depthwise(32)).attributes["channels_per_group"] == [1, 1]
    assert sizes_of(depthwise(32)) == (32,)


def test_group_size_is_part_of_a_key() -> None:
    x = operand(1, 32, 14, 14, group="x")
    assert key_of(conv("a", x, x, groups=8)).identity != key_of(conv("a", x, x, groups=4)).identity


def test_sizes_follow_widths() -> None:
    layer = conv("c", operand(1, 67, 8, 8, group="a", fixed=3), operand(1, 32, 8, 8, group="b"))
    assert sizes_of(layer) == (67, 32)
    assert sizes_of(layer, {"a": 16, "b": 8}) == (19, 8)
    flat = linear("fc", operand(1, 49 * 64, group="a", multiplier=49), operand(1, 10))
    assert sizes_of(flat, {"a": 16}) == (784, 10)


def test_a_missing_width_is_named() -> None:
    layer = conv("c", operand(1, 64, 8, 8, group="a"), operand(1, 32, 8, 8, group="b"))
    with pytest.raises(InputError, match=r"channel group 'b', which layer c depends on"):
        sizes_of(layer, {"a": 16})


def test_an_operator_in_place_is_the_same_operator() -> None:
    x = operand(1, 8, 4, 4, group="x")
    written = [call("r", "relu", target, (x,), x) for target in ("aten.relu.default", "aten.relu_.default")]
    assert key_of(written[0]).identity == key_of(written[1]).identity


def test_a_key_reads_well() -> None:
    layer = conv("c", operand(1, 8, 14, 14), operand(1, 16, 14, 14), stride=2)
    assert str(key_of(layer)).startswith("conv {kernel: [3, 3], stride: [2, 2]")
    assert str(key_of(layer)).endswith("on 1×C×14×14")
