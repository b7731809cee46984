"""The dense network, as regrowth remembers it after it was pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.regrow.similarity import Maps, Run, output_maps
from hwprune.regrow.weights import find_weights


class DenseReference:
    """Weights of a trained dense model, what they are worth, and what its layers put out.

    Make it before anything is pruned. Then run the training set through the model, with ``loss.backward()`` and
    without an optimizer's step, and call :meth:`update` after every batch; in eval mode, as Liu & Sheng do, batch
    norms and dropout are what they are when the model is used.

    Args:
        model: the bare module.
        first_dense: whether its first weight is left out, as for :class:`~hwprune.regrow.SparseMasks`.
        exclude: patterns of names to leave out.

    Attributes:
        values: weight → a copy of it.
        batches: in the mean.
        skipped: batches that were left out because a gradient was not finite.
        maps: outputs of the convolutions; empty before :meth:`observe`.

    Raises:
        ModelError: see :func:`hwprune.regrow.weights.find_weights`.
        InputError: a weight is not finite.
    """

    def __init__(self, model: nn.Module, *, first_dense: bool = False, exclude: Sequence[str] = ()) -> None:
        self.first_dense, self.exclude = first_dense, tuple(exclude)
        found, _ = find_weights(model, first_dense=first_dense, exclude=exclude)
        self.values = {name: weight.parameter.detach().clone() for name, weight in found.items()}
        if bad := [name for name, value in self.values.items() if not bool(value.isfinite().all())]:
            raise InputError(f"{', '.join(bad)}: not finite", hint="load weights without NaN and infinite values")
        self.batches = self.skipped = 0
        self.maps: Maps = {}
        self._squares = {name: torch.zeros_like(_wide(value)) for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the squares of one batch's gradient; call it after ``backward`` and before ``zero_grad()``.

        Args:
            model: the dense one; its weights are those of the beginning. A weight without a gradient adds nothing.

        Raises:
            InputError: the weights have changed, or none has a gradient.
        """
        gradients = {}
        for name, value in self.values.items():
            parameter = model.get_parameter(name)
            if not torch.equal(parameter, value.to(parameter.device)):
                raise InputError(
                    f"{name} is not what it was when the reference was made",
                    hint="take gradients of the dense model without optimizer steps, before it is pruned",
                )
            if parameter.grad is not None:
                gradient = parameter.grad
                gradients[name] = _wide(gradient.to_dense() if gradient.is_sparse else gradient)
        if not gradients:
            raise InputError(
                "no weight of the dense model has a gradient",
                hint="call update() after loss.backward() and before zero_grad(), with the bare module",
            )
        if all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            for name, gradient in gradients.items():
                self._squares[name] = self._squares[name].to(gradient.device) + gradient.square()
            self.batches += 1
        else:
            self.skipped += 1

    def observe(self, model: nn.Module, run: Run) -> None:
        """Remember what its convolutions put out, for allocation by similarity.

        Args:
            model: the dense one.
            run: runs it on some batches, see :data:`hwprune.regrow.similarity.Run`.
        """
        self.maps = output_maps(model, self.values, run)

    def saliency(self) -> dict[str, Tensor]:
        """Weight → mean over batches of the squared gradient, times the squared weight; float32 or float64.

        The square of a batch's gradient, not the mean of the samples' squares (Fisher), as in Liu & Sheng's code.

        Raises:
            InputError: no batch was usable.
        """
        if not self.batches:
            raise InputError(
                f"the dense reference has no saliency: {self.skipped} batches had NaN or infinite gradients, none was "
                "usable",
                hint="run batches through the dense model with loss.backward(), and call update() after each",
            )
        return {
            name: square / self.batches * _wide(self.values[name]).to(square.device).square()
            for name, square in self._squares.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything: nested dicts of tensors and plain values."""
        return {
            "values": {name: value.clone() for name, value in self.values.items()},
            "squares": {name: square.clone() for name, square in self._squares.items()},
            "batches": self.batches,
            "skipped": self.skipped,
            "maps": {name: {size: one.clone() for size, one in maps.items()} for name, maps in self.maps.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; this reference may have been made of a model that is pruned by now.

        Raises:
            InputError: it is of other weights.
        """
        shapes = {name: tuple(value.shape) for name, value in self.values.items()}
        saved = {name: tuple(value.shape) for name, value in state["values"].items()}
        if saved != shapes:
            differing = sorted({name for name, _ in saved.items() ^ shapes.items()})
            raise InputError(
                f"the saved dense reference does not fit the model: {', '.join(differing)}",
                hint="continue with the model, first_dense and exclude that it was made with",
            )
        self.values = {name: state["values"][name].clone() for name in self.values}
        self._squares = {name: state["squares"][name].clone() for name in self.values}
        self.batches, self.skipped = int(state["batches"]), int(state["skipped"])
        self.maps = {name: {size: one.clone() for size, one in maps.items()} for name, maps in state["maps"].items()}


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
