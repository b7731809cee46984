from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwprune.errors import InputError, MissingLatencyError
from hwprune.latency import Operand, layer_costs, predict, profile_alone, sizes_of

from .fakes import call, fake_bench, operand, relus, residual_network


@pytest.fixture(scope="module")
def layers():
    return residual_network()


@pytest.fixture(scope="module")
def table(layers):
    return profile_alone(layers, fake_bench(), points=3, dense=relus(40))


def test_layers_sum_to_the_whole_and_say_where_they_come_from(layers, table) -> None:
    prediction = predict(layers, table, {"a": 32, "b": 64})
    assert sum(layer.latency_ms for layer in prediction.per_layer) == pytest.approx(prediction.latency_ms, rel=1e-12)
    assert [layer.name for layer in prediction.per_layer] == [layer.name for layer in layers]
    sources = {layer.name: layer.source for layer in prediction.per_layer}
    assert sources == {
        "stem": "measured",
        "c1": "measured",
        "n1": "fused into c1",
        "r1": "fused into c1",
        "c2": "measured",
        "n2": "fused into c2",
        "sum": "fused into c2",
        "r2": "fused into c2",
        "pool": "measured",
        "fc": "measured",
    }
    assert all((layer.latency_ms == 0) == layer.source.startswith("fused") for layer in prediction.per_layer)


def test_between_measured_counts_is_marked(layers, table) -> None:
    prediction = predict(layers, table, {"a": 20, "b": 64})
    assert {layer.source for layer in prediction.per_layer if layer.latency_ms} == {"interpolated"}


def test_a_layer_that_was_not_measured_is_never_free(layers, table) -> None:
    x = operand(1, 64, 32, 32, group="a")
    with pytest.raises(MissingLatencyError, match="layer extra: the latency table has no entry for gelu"):
        predict((*layers, call("extra", "gelu", "aten.gelu.default", (x,), x)), table)


def test_widths_must_be_complete(layers, table) -> None:
    with pytest.raises(InputError, match="no width is given for channel group 'b'"):
        predict(layers, table, {"a": 32})


def test_a_width_of_zero(layers, table) -> None:
    with pytest.raises(InputError, match="would have 0 channels"):
        predict(layers, table, {"a": 32, "b": 0})


def test_layer_costs_are_the_prediction_over_many_widths(layers, table) -> None:
    cost = layer_costs(layers, table)
    widths = tuple(range(1, 65))
    total = np.zeros((64, 64))
    for layer in layers:
        sizes = {"stem": ((3,), widths), "c1": (widths, widths), "c2": (widths, widths), "fc": (widths, (10,))}
        values = cost(layer, sizes.get(layer.name, (widths,)))
        if values is None:
            continue
        assert values.shape == tuple(len(axis) for axis in sizes.get(layer.name, (widths,)))
        if layer.name in ("c1", "c2"):
            total += values if layer.name == "c1" else values.T  # c2 reads b and writes a
        else:
            total += values.reshape(64, 1)
    for a, b in [(1, 1), (16, 64), (64, 64), (17, 40), (33, 5)]:
        assert total[a - 1, b - 1] == pytest.approx(predict(layers, table, {"a": a, "b": b}).latency_ms, rel=1e-9)


def test_fused_layers_cost_nothing_of_their_own(layers, table) -> None:
    cost = layer_costs(layers, table)
    assert cost(layers[2], ((16, 32),)) is None


def test_layer_costs_of_operands_without_channels(table) -> None:
    scalar = Operand(())
    image = operand(1, 3, 8, 8)
    total = call("total", "mean", "aten.mean.default", (image,), scalar)
    single = profile_alone([total], fake_bench())
    values = layer_costs([total], single)(total, ((1,),))
    np.testing.assert_allclose(values, single.entries[0].latency_ms.reshape(1))
    assert sizes_of(total) == ()


def test_layer_costs_of_a_weight_layer_whose_input_never_changes(layers, table) -> None:
    stem = dataclasses.replace(layers[0], inputs=(dataclasses.replace(layers[0].inputs[0], channel_dim=None),))
    values = layer_costs(layers, table)(stem, ((1,), (16, 64)))
    np.testing.assert_allclose(values, layer_costs(layers, table)(layers[0], ((3,), (16, 64))))
