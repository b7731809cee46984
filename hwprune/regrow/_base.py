"""What every rule does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.errors import InputError
from hwprune.regrow.masks import SparseMasks
from hwprune.regrow.weights import Weight, magnitude


@dataclass(frozen=True)
class Context:
    """What a rule works on.

    Attributes:
        model: the bare module.
        optimizer: which trains it.
        masks: what the rule changes.
        memory: what the rule remembers between steps: nested dicts of tensors and plain values, saved with the masks.
        seed: of everything that is drawn.
        step: optimizer steps done, the present one included; 0 before the first.
    """

    model: nn.Module
    optimizer: Optimizer
    masks: SparseMasks
    memory: dict[str, Any]
    seed: int
    step: int

    def key(self, name: str) -> str:
        """What a random choice for one weight at this step depends on."""
        return f"{self.seed}/{self.step}/{name}"

    def gradient(self, name: str) -> Tensor | None:
        """Magnitudes of a weight's gradient in this step, of all its elements; None if it has no gradient."""
        gradient = self.masks.weights[name].parameter.grad
        if gradient is None:
            return None
        return magnitude(gradient.to_dense() if gradient.is_sparse else gradient)


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """When and how masks change while a model is trained.

    Rules are settings and hold no state. ``step`` counts calls of ``optimizer.step()`` from 1.

    Attributes:
        steps: optimizer steps of the whole training.
    """

    steps: int

    name: ClassVar[str]
    """As given on a command line."""
    needs_gradients: ClassVar[bool]
    """Whether :meth:`update` reads gradients. An update that is due while they are not finite waits for the next step
    at which they are."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one is out of its range.
        """
        self.require(self.steps >= 1, "steps", "a whole number of at least 1")

    @property
    @abstractmethod
    def last(self) -> int:
        """The last step at which masks may change."""

    @abstractmethod
    def planned(self, step: int) -> float:
        """Density of the masked weights after this step; with rounding they have at most that."""

    @abstractmethod
    def start(self, context: Context) -> None:
        """Choose the masks that training starts with."""

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether masks change after this step."""

    @abstractmethod
    def update(self, context: Context) -> None:
        """Change the masks. Called when due, with weights outside the masks at zero; they are applied afterwards.

        A weight that is dropped and grown in the same update keeps its value and its momentum.
        """

    def settle(self, context: Context) -> None:
        """Undo what the optimizer did to weights that it should not train; called after each of its steps."""
        context.masks.apply(context.optimizer)

    def explores(self, step: int) -> bool:
        """Whether weights outside the masks hold values after this step."""
        return False

    def refuses(self, weight: Weight) -> str:
        """Why this weight cannot be masked by this rule; empty if it can."""
        return ""

    def settings(self) -> dict[str, Any]:
        """Name and settings, as plain values."""
        return {"rule": self.name, **asdict(self)}

    def require(self, holds: bool, field: str, allowed: str) -> None:
        """Refuse a setting.

        Raises:
            InputError: naming the field, its value and what is allowed.
        """
        if not holds:
            raise InputError(f"{self.name}: {field} is {getattr(self, field)!r}", hint=f"it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class Periodic(Rule):
    """A rule that changes masks every so many steps.

    Attributes:
        density: share of the masked weights that is active in the end.
        interval: steps between two updates.
        until: share of the training after which masks stay.
    """

    density: float = 0.1
    interval: int = 100
    until: float = 0.75

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.require(0 < self.density <= 1, "density", "above 0 and at most 1")
        self.require(self.interval >= 1, "interval", "a whole number of at least 1")
        self.require(0 <= self.until <= 1, "until", "a share of the training, 0 to 1")

    @property
    def last(self) -> int:
        """The step at ``until``."""
        return int(self.steps * self.until)

    def due(self, step: int) -> bool:
        """Every ``interval`` steps up to the last."""
        return step <= self.last and step % self.interval == 0
