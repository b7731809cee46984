import math

import pytest

from hwprune.errors import InputError
from hwprune.training import TrainConfig


def test_warm_up_then_half_a_cosine():
    config = TrainConfig(epochs=4, learning_rate=0.8, warmup=1)
    rates = [config.learning_rate_at(step, 3) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([0.4 * (1 + math.cos(math.pi * k / 9)) for k in range(1, 9)])


def test_constant():
    config = TrainConfig(epochs=2, learning_rate=0.3, schedule="constant")
    assert {config.learning_rate_at(step, 5) for step in range(10)} == {0.3}


def test_warm_up_longer_than_the_training_never_divides_by_zero():
    config = TrainConfig(epochs=1, learning_rate=1.0, warmup=9)
    rates = [config.learning_rate_at(step, 4) for step in range(4)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": -1},
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": 0},
        {"num_workers": -1},
        {"seed": -1},
        {"learning_rate": 0},
        {"learning_rate": math.inf},
        {"learning_rate": math.nan},
        {"distill_temperature": 0},
        {"distill_weight": 1.1},
        {"momentum": -0.1},
        {"weight_decay": math.nan},
        {"grad_clip": -1},
        {"warmup": -1},
        {"optimizer": "adam"},
        {"schedule": "step"},
        {"precision": "16-mixed"},
        {"accelerator": "npu"},
    ],
)
def test_values_that_cannot_work_are_named(change):
    ((name, value),) = change.items()
    with pytest.raises(InputError) as caught:
        TrainConfig(**change)
    assert caught.value.message == f"{name} is {value!r}"
    assert caught.value.hint.startswith(name)
