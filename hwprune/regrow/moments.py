"""What an optimizer remembers of every single weight: momentum, second moments."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer


def moments(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """State of one parameter that has a value per element: name → tensor of its shape, live.

    Step counters are no such state. Neither are factored moments (Adafactor) or moments in blocks of 8 bits, which
    cannot be set for one weight alone: they stay as they are.
    """
    return {
        name: value
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()
    }
