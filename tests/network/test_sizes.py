"""Attributes that hold sizes, as parts of groups and of plans."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.network import cut, trace, verify_cut

TOKENS = torch.randn(2, 7, 5)


class Attention(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.embed, self.qkv, self.out, self.head = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)
        vars(self).update(sizes)

    def ready(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        self.ready(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, 2).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.out(attended))


class Remembering(Attention):
    """Forward makes the attribute."""

    def ready(self, x: Tensor) -> None:
        self.heads = vars(self).get("heads", 4)


class Looking(Attention):
    """Does not run without values; another attribute is four, too."""

    def ready(self, x: Tensor) -> None:
        if x.abs().sum().item() > 1e9:
            x.zero_()


def test_an_attribute_that_forward_makes_is_no_part_of_a_plan() -> None:
    model = Remembering()
    network = trace(model, TOKENS)
    assert [group.name for group in network.cuttable] == ["embed"]
    verify_cut(model, cut(model, network.cuts({"embed": [1, 4]})), network, {"embed": [1, 4]}, TOKENS)


def test_an_attribute_that_no_shape_depends_on_stays_in_models_that_need_values_too() -> None:
    network = trace(Looking(heads=4, patience=4), TOKENS)
    members = {group.name: {one.tensor for one in group.members if one.role == "size"} for group in network.cuttable}
    assert members == {"qkv": {"heads"}}


@pytest.mark.parametrize(
    "cuts",
    [
        {"heads": {0: [0, 1, 2, 3, 4]}},
        {"heads": {0: [3, 4]}},
        {"heads": {1: [0]}},
        {"heads": {0: [0], 1: [0]}},
        {"embed.out_features": {0: [0]}},
        {"training": {0: [0]}},
        {"embed.weight": {0: [1, 1]}},
        {"embed.weight": {0: [1, 0]}},
    ],
)
def test_nonsense_in_a_plan_is_refused(cuts: dict[str, dict[int, list[int]]]) -> None:
    with pytest.raises(InputError, match="the plan"):
        cut(Attention(heads=4), cuts)
