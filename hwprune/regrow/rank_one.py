"""A recovered layer as a sparse one plus one of rank one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hwprune.errors import ModelError
from hwprune.network.surgery import copied
from hwprune.regrow.layout import Layout
from hwprune.regrow.recovery import Recovery
from hwprune.regrow.replacement import replaced

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class SparsePlusRankOne(nn.Module):
    """Computes with M·(w - μ) + μ·1 without ever adding it up.

    w * x = (M·(w - μ)) * x + μ·(1 * x). The second term is the sum of all inputs under the window, which filters of one
    group share: channels are added up, and one filter of ones goes over the sums.

    Args:
        layer: a convolution, transposed or not, or a linear layer, with its recovered weight; of exactly torch's class.
        mask: which elements of the weight stay, bool, in its shape.
        mean: μ of every filter, shape (filters,).
    """

    def __init__(self, layer: nn.Module, mask: Tensor, mean: Tensor) -> None:
        super().__init__()
        assert isinstance(layer, (_ConvNd, nn.Linear))
        layout, shape = Layout.of(layer, "weight"), tuple(layer.weight.shape)
        self.sparse, mean = copy.deepcopy(layer), mean.to(layer.weight)
        with torch.no_grad():
            residual = layout.rows(layer.weight) - mean.unsqueeze(1)
            self.sparse.weight.copy_(layout.weight(residual, shape).masked_fill_(~mask.to(residual.device), 0))
        self.groups = getattr(layer, "groups", 1)
        self.window = _ones(layer) if isinstance(layer, _ConvNd) else nn.Identity()
        self.channel_dim = -1 - (len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0)
        self.register_buffer("mean", mean.view(-1, *[1] * (-1 - self.channel_dim)))

    mean: Tensor

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """As the layer.

        Args:
            x: its input.
            arguments: ``output_size`` of a transposed convolution.
        """
        sums = torch.unflatten(x, self.channel_dim, (self.groups, -1)).sum(self.channel_dim)
        window = self.window(sums, *arguments).repeat_interleave(len(self.mean) // self.groups, self.channel_dim)
        result: Tensor = self.sparse(x, *arguments) + self.mean * window
        return result


def sparse_plus_rank_one(model: nn.Module, recovery: Recovery) -> nn.Module:
    """A copy of a recovered model in whose layers the sparse part stands by itself.

    Its sparse weights have zeros where weights were pruned, for formats and runtimes that use them; a dense runtime is
    better off with the recovered weights as they are. Outputs are the same up to rounding. Layers from which nothing
    was pruned, or to zero, stay what they are.

    Args:
        model: after :func:`~hwprune.regrow.recovery.prune_and_recover`; left as it is.
        recovery: what that returned.

    Raises:
        ModelError: the weight is not that of a convolution or linear layer of torch's own class.
    """
    model = copied(model)
    for name in recovery.masks:
        mask, mean = recovery.masks[name], recovery.means[name]
        if bool(mask.all()) or not bool(mean.any()):
            continue
        parameter = model.get_parameter(name)
        holders = [one for one in model.modules() if any(own is parameter for own in one._parameters.values())]
        model = replaced(model, {layer: SparsePlusRankOne(_checked(name, layer), mask, mean) for layer in holders})
    return model


def _checked(name: str, layer: nn.Module) -> nn.Module:
    if type(layer) not in LAYERS or not name.endswith("weight"):
        raise ModelError(
            f"{name} belongs to a {type(layer).__name__}, which is no convolution or linear layer of torch",
            hint="exclude it from the masks, or use the recovered dense weights as they are",
        )
    return layer


def _ones(layer: _ConvNd) -> nn.Module:
    """The layer over the channel sums of its groups, with a weight of ones and no bias."""
    settings: dict[str, Any] = {"output_padding": layer.output_padding} if isinstance(layer, _ConvTransposeNd) else {}
    window: nn.Module = type(layer)(
        layer.groups,
        layer.groups,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
        **settings,
    )
    nn.init.ones_(window.get_parameter("weight")).requires_grad_(False)
    return window.train(layer.training)
