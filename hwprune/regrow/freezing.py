"""What holds a network still while only a part of it is trained: the explore stage of IEE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.network.masking import named_tensors
from hwprune.regrow.moments import moments


@dataclass
class Frozen:
    """Values, and what the optimizer remembered, of everything that is not explored.

    They are put back after each of the optimizer's steps, which works with any optimizer, momentum and weight decay.

    Attributes:
        explored: tensor → the positions that are trained, bool; tensors that are not named are frozen as a whole.
        values: parameter or buffer → its values when the exploration began.
        moments: parameter → what the optimizer remembered of it then; of what is explored, nothing.
    """

    explored: dict[str, Tensor]
    values: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]

    @classmethod
    @torch.no_grad()
    def begin(cls, model: nn.Module, optimizer: Optimizer | None, explored: Mapping[str, Tensor]) -> Frozen:
        """Remember everything; the optimizer forgets what is explored."""
        remembered: dict[str, dict[str, Tensor]] = {}
        for name, parameter in model.named_parameters():
            held = moments(optimizer, parameter) if optimizer else {}
            for value in held.values() if name in explored else ():
                value.masked_fill_(explored[name].to(value.device), 0)
            remembered[name] = {key: value.clone() for key, value in held.items()}
        values = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        return cls(dict(explored), values, remembered)

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Give everything that is not explored the values that it had."""
        for name, tensor in named_tensors(model).items():
            before, explored = self.values[name].to(tensor), self.explored.get(name)
            tensor.copy_(before if explored is None else torch.where(explored.to(tensor.device), tensor, before))

    @torch.no_grad()
    def end(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Give the optimizer back what it remembered; what it has learned of since, it forgets."""
        for name, parameter in model.named_parameters() if optimizer else ():
            for key, value in moments(optimizer, parameter).items() if optimizer else ():
                before = self.moments[name].get(key)
                value.zero_() if before is None else value.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything; ``Frozen(**state)`` goes on from there."""
        return {
            "explored": {name: mask.clone() for name, mask in self.explored.items()},
            "values": {name: tensor.clone() for name, tensor in self.values.items()},
            "moments": {name: {k: v.clone() for k, v in held.items()} for name, held in self.moments.items()},
        }
