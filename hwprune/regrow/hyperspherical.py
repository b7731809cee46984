"""Hyperspherical networks: filters of unit norm, and a classifier that compares directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from hwprune.errors import InputError, ModelError
from hwprune.network.surgery import copied
from hwprune.regrow.layout import Layout
from hwprune.regrow.replacement import replaced
from hwprune.regrow.weights import find_weights


class UnitFilters(nn.Module):
    """Parametrization of a weight whose filters, one per output channel, are divided by their L2 norm.

    Args:
        layout: which dimensions of the weight are outputs.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with filters of norm 1, in its shape; a filter of zeros stays zero."""
        return self.layout.weight(F.normalize(self.layout.rows(weight), dim=1), tuple(weight.shape))


class UnitFeatures(nn.Module):
    """Features divided by their L2 norm over the last dimension."""

    def forward(self, features: Tensor) -> Tensor:
        """Shape (…, features), as given."""
        return F.normalize(features, dim=-1)


class CosineClassifier(nn.Module):
    """Logits s·cos(feature, class weight), without a bias.

    Args:
        linear: the classifier whose weight it takes over.
        scale: s in the beginning.
        learn_scale: whether s is trained.
    """

    def __init__(self, linear: nn.Linear, *, scale: float, learn_scale: bool) -> None:
        super().__init__()
        self.weight, self.had_bias = linear.weight, linear.bias is not None
        self.scale = nn.Parameter(torch.full_like(linear.weight[0, 0], scale), requires_grad=learn_scale)
        self.features = UnitFeatures()
        parametrize.register_parametrization(self, "weight", UnitFilters(Layout()))

    def forward(self, features: Tensor) -> Tensor:
        """Shape (…, features) → (…, classes)."""
        logits: Tensor = self.scale * F.linear(self.features(features), self.weight)
        return logits

    def linear(self) -> nn.Linear:
        """The linear layer of weight s·ŵ, with a bias of zeros if there was one."""
        with torch.no_grad():
            weight = self.scale * self.weight
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=self.had_bias, device=weight.device, dtype=weight.dtype)
        made.weight = nn.Parameter(weight)
        if self.had_bias:
            nn.init.zeros_(made.bias)
        return made.train(self.training)


def hyperspherical(
    model: nn.Module,
    *,
    classifier: str = "",
    scale: float = 32.0,
    learn_scale: bool = True,
    exclude: Sequence[str] = (),
) -> nn.Module:
    """A copy of a model to be trained on hyperspheres: all filters have norm 1, logits are cosines.

    A reconstruction after the abstract of Liu & Liu, "Pruning On-the-Fly" (arXiv 2212.12651), whose equations were not
    at hand. Every weight of a convolution or linear layer gets a :class:`UnitFilters` parametrization, the classifier
    becomes a :class:`CosineClassifier`. Before a normalisation the norm of a filter has no effect on the output, so
    there nothing is lost (running statistics of a trained model do not fit any more: recalibrate them or train); a
    layer without one loses it, and may be excluded.

    Make the optimizer afterwards, of the copy's parameters.

    Args:
        model: a plain one, trained or not; left as it is.
        classifier: name of the linear layer that makes the logits; every layer keeps its kind if not given.
        scale: s; 16 to 64 are usual.
        learn_scale: whether s is trained.
        exclude: patterns of names of weights or layers that stay as they are, with ``*`` and ``?``.

    Raises:
        InputError: the scale is not a positive number, or the classifier is no linear layer.
        ModelError: a weight is parametrised already or shared with something that is no convolution or linear layer;
            there is nothing to normalise.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale}", hint="give a positive number; 16 to 64 are usual")
    model = copied(model)
    weights, _ = find_weights(model, exclude=exclude)
    wanted = {id(weight.parameter): name for name, weight in weights.items()}
    layers = {name: module for name, module in model.named_modules() if _normalised(module, wanted)}
    if classifier and not isinstance(layers.get(classifier), nn.Linear):
        linear = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
        raise InputError(
            f"the classifier {classifier!r} is no linear layer that is trained and not excluded",
            hint=f"linear layers: {', '.join(linear) or 'none'}",
        )
    if not layers:
        raise ModelError("the model has no convolution or linear layer to normalise", hint="exclude less")
    _check_shared(model, {id(module.weight): name for name, module in layers.items()})
    for name, module in layers.items():
        if name == classifier:
            assert isinstance(module, nn.Linear)
            cosine = CosineClassifier(module, scale=scale, learn_scale=learn_scale).train(module.training)
            model = replaced(model, {module: cosine})
        else:
            parametrize.register_parametrization(module, "weight", UnitFilters(Layout.of(module, "weight")))
    return model


def plain(model: nn.Module, *, classifier: Literal["cosine", "argmax"] = "cosine") -> nn.Module:
    """A copy of a hyperspherical model without parametrizations: the weights are the normalised ones.

    A cosine classifier divides by the norm of each sample's features, which no linear layer can do. ``cosine`` puts
    :class:`UnitFeatures` and a linear layer of weight s·ŵ in its place: the same outputs. ``argmax`` puts the linear
    layer alone: the original architecture, and of every sample all logits are those of the cosine classifier times one
    positive number, so that their order is the same and their softmax is not.

    Args:
        model: as :func:`hyperspherical` made it, trained; left as it is. Other parametrizations stay.
        classifier: ``cosine`` or ``argmax``.

    Raises:
        InputError: an unknown way, or nothing in the model is hyperspherical.
    """
    if classifier not in ("cosine", "argmax"):
        raise InputError(f"classifier is {classifier!r}", hint="it must be cosine or argmax")
    if not any(isinstance(module, UnitFilters) for module in model.modules()):
        raise InputError("nothing in the model is hyperspherical", hint="give what hyperspherical() made")
    model = copied(model)
    for module in list(model.modules()):
        if isinstance(module, CosineClassifier):
            linear = module.linear()
            folded = linear if classifier == "argmax" else nn.Sequential(UnitFeatures(), linear).train(module.training)
            model = replaced(model, {module: folded})
        elif unit_weight(module) is not None:
            # the copy shares the class that torch made for it, and torch removes the weight from that class
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
            parametrize.remove_parametrizations(module, "weight")
    return model


def unit_weight(module: nn.Module) -> UnitFilters | None:
    """The parametrization of a module's weight, if it is hyperspherical."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    chain = module.parametrizations["weight"]  # type: ignore[index]
    return chain[0] if isinstance(chain[0], UnitFilters) else None


def _normalised(module: nn.Module, wanted: dict[int, str]) -> bool:
    return isinstance(module, (_ConvNd, nn.Linear)) and id(module.weight) in wanted


def _check_shared(model: nn.Module, normalised: dict[int, str]) -> None:
    """Refuse a weight that is read by something that would not see it normalised."""
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in normalised and not (name == "weight" and isinstance(module, (_ConvNd, nn.Linear))):
                raise ModelError(
                    f"the weight of {normalised[id(parameter)]} is also {name} of {path or 'the model'}, a "
                    f"{type(module).__name__}, which is no convolution or linear layer",
                    hint="exclude it by name, or give the layers weights of their own",
                )
