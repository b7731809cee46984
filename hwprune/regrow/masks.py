"""Masks over single weights of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.errors import InputError
from hwprune.regrow.distribution import Distribution, layer_counts
from hwprune.regrow.moments import moments
from hwprune.regrow.ranking import random_k, top_k, top_k_of_all
from hwprune.regrow.weights import Refuses, Weight, find_weights, magnitude

Initial = Literal["random", "magnitude"]
"""Which weights are active first: those of a random choice, for training from scratch, or the largest."""


class SparseMasks:
    """One bool mask per weight: true where it is active, false where it is held at zero.

    Everything starts active. Masks live beside the model, which stays as it is: its forward is dense, and so are its
    gradients, which is what RigL and GraNet grow by. The sparsity is simulated; training is not faster.

    Args:
        model: the bare module (not its DDP or Fabric wrapper).
        first_dense: whether the first weight is left out, in the order of ``model.named_parameters()``.
        exclude: patterns of names to leave out, with ``*`` and ``?``: ``"fc"``, ``"*pos_embed"``, ``"blocks.0.*"``.
        refuses: says why a weight is left out, or nothing.

    Attributes:
        weights: name → what is masked.
        active: name → mask, bool, in the weight's shape. What :meth:`apply` has not seen yet has no effect yet.
        left_out: name → why a parameter of two or more dimensions is not masked.

    Raises:
        ModelError: nothing to mask, or a parameter that cannot be, see :func:`hwprune.regrow.weights.find_weights`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        first_dense: bool = False,
        exclude: Sequence[str] = (),
        refuses: Refuses = lambda _: "",
    ) -> None:
        self.weights: dict[str, Weight]
        self.weights, self.left_out = find_weights(model, first_dense=first_dense, exclude=exclude, refuses=refuses)
        self.active = {
            name: torch.ones_like(weight.parameter, dtype=torch.bool) for name, weight in self.weights.items()
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight → its shape."""
        return {name: tuple(weight.parameter.shape) for name, weight in self.weights.items()}

    @property
    def total(self) -> int:
        """Number of all weights that have a mask, active or not."""
        return sum(mask.numel() for mask in self.active.values())

    @property
    def counts(self) -> dict[str, int]:
        """Weight → how many of its elements are active."""
        return {name: int(mask.sum()) for name, mask in self.active.items()}

    @property
    def density(self) -> float:
        """Share of the masked weights that is active."""
        return sum(self.counts.values()) / self.total

    @property
    def densities(self) -> dict[str, float]:
        """Weight → share of its elements that is active."""
        return {name: count / self.active[name].numel() for name, count in self.counts.items()}

    def nonzeros(self) -> dict[str, int]:
        """Weight → how many of its values are not zero; a weight that was just grown is active and zero."""
        return {name: int(weight.parameter.count_nonzero()) for name, weight in self.weights.items()}

    def magnitudes(self) -> dict[str, Tensor]:
        """Weight → absolute values, float32 or float64."""
        return {name: magnitude(weight.parameter) for name, weight in self.weights.items()}

    def at_random(self, distribution: Distribution, density: float, *, seed: int) -> None:
        """Choose exactly as many weights of every layer as the distribution says, at random.

        Args:
            distribution: ``uniform`` or ``erk``.
            density: share of all masked weights.
            seed: with the weight's name it decides the choice, on any device and in any process.
        """
        for name, count in layer_counts(distribution, self.shapes, density).items():
            self.active[name] = random_k(torch.ones_like(self.active[name]), count, f"{seed}/0/{name}")

    def start(self, initial: Initial, distribution: Distribution, density: float, *, seed: int) -> None:
        """Choose the first active weights of every layer.

        Args:
            initial: ``random``, or the ``magnitude`` of a pretrained model's.
            distribution: ``uniform`` or ``erk``.
            density: share of all masked weights.
            seed: of a random choice.
        """
        if initial == "random":
            self.at_random(distribution, density, seed=seed)
        else:
            self.keep_largest_of_each(layer_counts(distribution, self.shapes, density))

    def keep_largest(self, count: int) -> None:
        """Keep the ``count`` largest active weights of all layers together, or all if there are fewer."""
        count = min(count, sum(self.counts.values()))
        self.active = top_k_of_all(self.magnitudes(), count, self.active)

    def keep_largest_of_each(self, counts: dict[str, int]) -> None:
        """Keep the largest active weights of every layer, or all if there are fewer.

        Args:
            counts: weight → how many.
        """
        for name, have in self.counts.items():
            values = magnitude(self.weights[name].parameter)
            self.active[name] = top_k(values, min(counts[name], have), self.active[name])

    def follow(self) -> None:
        """Move the masks to where the weights are."""
        for name, weight in self.weights.items():
            self.active[name] = self.active[name].to(weight.parameter.device)

    @torch.no_grad()
    def apply(self, optimizer: Optimizer | None = None) -> None:
        """Set weights outside the masks to zero.

        Args:
            optimizer: also set what it remembers of them to zero (momentum, second moments), so that a weight that
                is grown starts without momentum.
        """
        for name, weight in self.weights.items():
            inactive = ~self.active[name]
            weight.parameter.masked_fill_(inactive, 0)
            if optimizer is not None:
                for moment in moments(optimizer, weight.parameter).values():
                    moment.masked_fill_(inactive, 0)

    def check_finite(self, step: int) -> None:
        """Refuse to rank weights of a training that diverged.

        Args:
            step: after which it is asked.

        Raises:
            InputError: a weight is not finite.
        """
        for name, weight in self.weights.items():
            if not bool(weight.parameter.isfinite().all()):
                raise InputError(
                    f"the training diverged: {name} is not finite after step {step}",
                    hint="lower the learning rate, add warm-up or clip gradients",
                )

    def state_dict(self) -> dict[str, Tensor]:
        """Weight → a copy of its mask."""
        return {name: mask.clone() for name, mask in self.active.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over masks from :meth:`state_dict`; weights change at the next :meth:`apply`.

        Raises:
            InputError: they are of other weights.
        """
        shapes = {name: tuple(mask.shape) for name, mask in state.items()}
        if shapes != self.shapes:
            differing = sorted(name for name, _ in shapes.items() ^ self.shapes.items())
            raise InputError(
                f"the saved masks do not fit the model: {', '.join(sorted(set(differing)))}",
                hint="continue with the model, first_dense and exclude that the masks were saved with",
            )
        self.active = {
            name: state[name].to(device=weight.parameter.device, dtype=torch.bool, copy=True)
            for name, weight in self.weights.items()
        }


def check_same_settings(here: Mapping[str, Any], there: Mapping[str, Any], hint: str) -> None:
    """Refuse a state that was saved under other settings.

    Args:
        here: settings of the pruner that takes a state over.
        there: settings in the state.
        hint: what to continue with.

    Raises:
        InputError: they differ; says in what.
    """
    if here != there:
        keys = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        raise InputError(
            f"the saved state is of {', '.join(f'{key}={there.get(key)!r}' for key in keys)}; "
            f"this pruner has {', '.join(f'{key}={here.get(key)!r}' for key in keys)}",
            hint=hint,
        )
