"""The pruner of single weights, for any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwprune.errors import InputError
from hwprune.regrow._base import Context, Rule
from hwprune.regrow.agreement import check_agreement
from hwprune.regrow.history import History, MaskUpdate
from hwprune.regrow.masks import SparseMasks, check_same_settings


class SparsePruner:
    """Keeps a model sparse, or makes it so, while somebody else's loop trains it.

    Call :meth:`step` after every ``optimizer.step()`` and before ``zero_grad()``; the gradients of the step are read
    there (under AMP they are unscaled by then, under DistributedDataParallel averaged, with gradient accumulation
    summed). A step that a ``GradScaler`` skipped counts as one. An update of the masks that is due while gradients are
    not finite waits for the next step at which they are.

    The sparsity is simulated: weights outside the masks are zero, and so is what the optimizer remembers of them.

    Args:
        model: the bare module (not its DDP or Fabric wrapper).
        optimizer: trains it; any of torch's.
        rule: when and how masks change.
        first_dense: whether the first weight stays dense, in the order of ``model.named_parameters()``.
        exclude: patterns of names that stay dense, of parameters or of modules, with ``*`` and ``?``.
        seed: of everything that is drawn; the same in every process.
        check_ranks: whether the processes of a distributed training compare their masks after every update.

    Attributes:
        masks: which weights are active.
        rule: as given.

    Raises:
        ModelError: nothing to mask, or a parameter that cannot be, see :func:`hwprune.regrow.weights.find_weights`.
        InputError: a weight that is not in the optimizer; the masks of two processes differ.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        rule: Rule,
        *,
        first_dense: bool = False,
        exclude: Sequence[str] = (),
        seed: int = 0,
        check_ranks: bool = True,
    ) -> None:
        self.model, self.optimizer, self.rule, self.seed = model, optimizer, rule, seed
        self.masks = SparseMasks(model, first_dense=first_dense, exclude=exclude, refuses=rule.refuses)
        self._check_optimizer()
        self._check_ranks, self._calls, self._waiting = check_ranks, 0, False
        self._memory: dict[str, Any] = {}
        self._history = History()
        self._unmasked = self._start()

    @property
    def finished(self) -> bool:
        """True once the rule changes masks no more; :meth:`step` still keeps weights outside them at zero."""
        return self._calls >= self.rule.last and not self._waiting

    @property
    def exploring(self) -> bool:
        """True while weights outside the masks hold values: no time to save or judge the sparse model."""
        return self.rule.explores(self._calls)

    @property
    def density(self) -> dict[str, float]:
        """Weight → share of its elements that is active; ``masks.density`` is that of all together."""
        return self.masks.densities

    @property
    def history(self) -> list[MaskUpdate]:
        """One record per update of the masks."""
        return list(self._history.updates)

    @torch.no_grad()
    def step(self) -> None:
        """Account for one training step; update the masks when that is due.

        Raises:
            InputError: the rule needs gradients and there are none; a weight is not finite; masks differ by process.
        """
        self._unmasked, self._calls = {}, self._calls + 1
        self.masks.follow()
        context = self._context()
        self.rule.settle(context)
        if self._waiting or self.rule.due(self._calls):
            self.masks.check_finite(self._calls)
            self._waiting = self.rule.needs_gradients and not self._gradients_are_finite()
            if not self._waiting:
                self._update(context)

    def _update(self, context: Context) -> None:
        before = dict(self.masks.active)
        self.rule.update(context)
        self.masks.apply(self.optimizer)
        self._history.record(self._calls, before, self.masks.active)
        if self._check_ranks:
            check_agreement(self.masks.active)

    def _start(self) -> dict[str, Tensor]:
        """Put on the first masks; returns the weights as they were, where they changed."""
        before = {name: weight.parameter.detach().clone() for name, weight in self.masks.weights.items()}
        self.rule.start(self._context())
        self.masks.apply()
        if self._check_ranks:
            check_agreement(self.masks.active)
        return {name: value for name, value in before.items() if not bool(self.masks.active[name].all())}

    def _context(self) -> Context:
        return Context(self.model, self.optimizer, self.masks, self._memory, self.seed, self._calls)

    def _gradients_are_finite(self) -> bool:
        gradients = [self.masks.weights[name].parameter.grad for name in self.masks.weights]
        there = [gradient for gradient in gradients if gradient is not None]
        if not there:
            raise InputError(
                f"rule {self.rule.name} grows weights by their gradients, and there are none",
                hint="call step() after loss.backward() and optimizer.step(), before zero_grad()",
            )
        values = (gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in there)
        return all(bool(value.isfinite().all()) for value in values)

    def _check_optimizer(self) -> None:
        trained = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, weight in self.masks.weights.items() if id(weight.parameter) not in trained]
        if missing:
            raise InputError(
                f"the optimizer does not train {', '.join(missing)}",
                hint="build it from this very model's parameters; freeze or exclude what is not trained",
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: nested dicts of tensors and plain values.

        The weights and the optimizer's state are the caller's to save.
        """
        return {
            "rule": self.rule.settings(),
            "seed": self.seed,
            "calls": self._calls,
            "waiting": self._waiting,
            "masks": self.masks.state_dict(),
            "memory": _copied(self._memory),
            "history": self._history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, bit for bit.

        The model's weights and the optimizer's state are the caller's to restore, before or after this or before the
        pruner was built.

        Raises:
            InputError: the state is of another rule, other settings or another model.
        """
        here = {**self.rule.settings(), "seed": self.seed}
        there = {**state["rule"], "seed": state["seed"]}
        check_same_settings(here, there, hint="continue with the rule, settings and seed of the run")
        self._take_back_start()
        self.masks.load_state_dict(state["masks"])
        self._calls, self._waiting = int(state["calls"]), bool(state["waiting"])
        self._history.load_state_dict(state["history"])
        self._memory = _copied(state["memory"])

    @torch.no_grad()
    def _take_back_start(self) -> None:
        """Undo the first masks where nothing has changed since: weights may have been restored before them."""
        self.masks.follow()
        for name, value in self._unmasked.items():
            weight = self.masks.weights[name].parameter
            if torch.equal(weight, value.to(weight.device).masked_fill(~self.masks.active[name], 0)):
                weight.copy_(value)
        self._unmasked = {}


def _copied(tree: Any) -> Any:
    """Nested dicts with tensors of their own."""
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return tree.clone() if isinstance(tree, Tensor) else tree
