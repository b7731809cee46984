"""Where a training stands at the end of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from hwprune.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """A copy of everything that the next epoch depends on.

    Attributes:
        epoch: epochs finished.
        model: the model's ``state_dict``, on the CPU.
        optimizer: the optimizer's ``state_dict``, on the CPU.
        history: one record per finished epoch: ``epoch`` (from 1), ``loss`` (mean over its steps), ``metric``
            (of the task, on the validation set), ``learning_rate`` (of its last step).
    """

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)

    def to_tree(self) -> dict[str, Any]:
        """For :func:`hwprune.training.save_checkpoint`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_tree(cls, tree: Any) -> TrainState:
        """From :func:`hwprune.training.load_checkpoint`.

        Raises:
            InputError: the tree is not a training state.
        """
        try:
            return cls(**tree)
        except TypeError as error:
            raise InputError(f"not a training state: {error}", hint="give a checkpoint that train wrote") from error
