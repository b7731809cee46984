"""What tracing says when it cannot."""

import pytest
import torch
from torch import nn

from hwprune.errors import ModelError
from hwprune.network import trace

from . import models

IMAGE = torch.randn(2, 3, 32, 32)


def reasons(network):
    return {group.name: group.frozen for group in network.frozen}


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(9, 4, 3))

    def forward(self, x):
        return self.features(x)


def test_a_forward_that_fails_is_located():
    with pytest.raises(ModelError, match=r"\(2, 3, 32, 32\), in features\.1: RuntimeError") as caught:
        trace(Broken(), IMAGE)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (nn.Linear(3, 3), "text", "not a tensor"),
        (nn.Linear(3, 3), (), "not a tensor"),
        (models.Call(lambda x: 3.0), IMAGE, "no tensor"),
        (models.Call(lambda x: [x, object()]), IMAGE, "contains a object"),
        (models.Call(lambda x: x.not_there), IMAGE, "has no attribute 'not_there'"),
    ],
)
def test_what_cannot_be_traced_is_a_model_error(model, example, message):
    with pytest.raises(ModelError, match=message):
        trace(model, example)


def test_a_model_that_cannot_be_copied_is_a_model_error():
    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    with pytest.raises(ModelError, match="cannot be copied: TypeError: no copies"):
        trace(Uncopyable(), IMAGE)


def test_the_deadline_names_the_place():
    with pytest.raises(ModelError, match=r"longer than 0 s; it was at stem\.0\.0"):
        trace(models.ResNet(), IMAGE, deadline_s=0)


def test_a_model_with_nothing_to_cut_has_reasons_only():
    network = trace(nn.Conv2d(3, 8, 3), IMAGE)
    assert not network.cuttable
    assert set(reasons(network).values()) >= {"the model's output"}
