"""Saliency averaged over minibatches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwprune.errors import InputError
from hwprune.network.network import Network

from ._base import Criterion


class Accumulator:
    """Running mean of a criterion over minibatches, for every group that can be cut.

    HALP averages plainly over the minibatches since the last prune step; there is no decay. A minibatch on
    which any score is NaN or infinite (an overflow under mixed precision) is left out as a whole.

    Args:
        network: the traced model.
        criterion: what a channel is worth on one minibatch.

    Attributes:
        batches: minibatches in the mean.
        skipped: minibatches left out.
    """

    def __init__(self, network: Network, criterion: Criterion) -> None:
        self.network, self.criterion = network, criterion
        self.reset()

    def reset(self) -> None:
        """Forget everything collected so far."""
        self.batches = self.skipped = 0
        self._sum = torch.zeros(sum(group.channels for group in self.network.cuttable), dtype=torch.float64)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add one minibatch; call it after ``backward`` (under AMP once gradients are unscaled).

        Args:
            model: the traced module itself, not a wrapper around it; its ``.grad`` fields are read.

        Raises:
            InputError: the criterion needs gradients and there are none, or it cannot judge a group.
        """
        # A shared parameter may be a member under either of its names.
        parameters = dict(model.named_parameters(remove_duplicate=False))
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        if self.criterion.needs_gradients and not gradients:
            raise InputError(
                f"criterion {self.criterion.name} needs gradients and the model has none",
                hint="call it after loss.backward() and before zero_grad(), with the bare module that was traced",
            )
        scores = [self.criterion.score(group, parameters, gradients) for group in self.network.cuttable]
        joined = torch.cat(scores).double()
        if bool(torch.isfinite(joined).all()):
            self._sum = self._sum.to(joined.device) + joined
            self.batches += 1
        else:
            self.skipped += 1

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Mean saliency: group name → shape (channels,).

        Raises:
            InputError: no minibatch was added, or every one had non-finite values.
        """
        if not self.batches:
            raise InputError(
                f"no saliency was collected: {self.skipped} minibatches had NaN or infinite values, none was usable",
                hint="check that the loss is finite; a lower learning rate or full precision may help",
            )
        mean = (self._sum / self.batches).cpu().numpy()
        ends = np.cumsum([group.channels for group in self.network.cuttable])
        return dict(zip((group.name for group in self.network.cuttable), np.split(mean, ends[:-1]), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Everything collected so far: tensors and plain values."""
        return {
            "criterion": self.criterion.name,
            "sum": self._sum.clone(),
            "batches": self.batches,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            InputError: the state is of another criterion or another network.
        """
        if state["criterion"] != self.criterion.name or state["sum"].shape != self._sum.shape:
            raise InputError(
                f"saved saliency is of {state['criterion']} over {len(state['sum'])} channels, "
                f"this is {self.criterion.name} over {len(self._sum)}",
                hint="resume with the model and criterion of the run",
            )
        self._sum = state["sum"].clone().double()
        self.batches, self.skipped = int(state["batches"]), int(state["skipped"])
