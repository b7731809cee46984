"""What is learnt: a loss, and a number that says how well it went."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.errors import DataError, InputError, ModelError
from hwprune.network.forward import Example, call, tensors_of
from hwprune.network.loading import importable, load_module

Predict = Callable[..., Any]
"""What ``forward`` takes to what it returns: the torch model, or an engine (a tensor, or a tuple of all outputs)."""
_FUNCTIONS = "loss(model, batch) and evaluate(predict)"


class Task(Protocol):
    """A task: two functions and the name of what the second one measures.

    Attributes:
        metric: name of the number that ``evaluate`` returns (``accuracy``).
        higher_is_better: whether more of it is better.
    """

    metric: str
    higher_is_better: bool

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Scalar loss of the model on one batch, as the data loader collates it."""

    def evaluate(self, predict: Predict, batches: Iterable[Any]) -> float:
        """Metric of ``predict`` (the torch model or an exported engine) over the validation batches."""


class ClassificationTask:
    """Single-label classification: cross entropy, top-1 accuracy in [0, 1].

    Batches are ``(inputs, labels)``: a tensor, a tuple or list of tensors (by position) or a dictionary of them (by the
    names of ``forward``'s arguments), and labels int64 of shape (N,). The logits are the first tensor that the model
    returns.

    Args:
        label_smoothing: probability spread over all classes, in [0, 1).
    """

    metric = "accuracy"
    higher_is_better = True

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing is {label_smoothing!r}", hint="it lies in [0, 1)")
        self.label_smoothing = label_smoothing

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross entropy, averaged over the batch.

        Raises:
            ModelError: the model's output is not (N, classes).
            DataError: the batch is not (inputs, labels), or a label is out of range.
        """
        inputs, labels = _pair(batch)
        logits = logits_of(call(model, inputs))
        _check(logits, labels)
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def evaluate(self, predict: Predict, batches: Iterable[Any]) -> float:
        """Top-1 accuracy in [0, 1].

        Raises:
            ModelError: the output is not (N, classes).
            DataError: a batch is not (inputs, labels), or a label is out of range, or there is no batch.
        """
        right = self.hits(predict, batches)
        return int(right.sum()) / len(right)

    def hits(self, predict: Predict, batches: Iterable[Any]) -> Tensor:
        """For every sample whether its class has the largest logit, (N,), of bool.

        Raises:
            ModelError: as :meth:`evaluate`.
            DataError: likewise.
        """
        right = []
        for batch in batches:
            inputs, labels = _pair(batch)
            logits, labels = logits_of(call(predict, inputs)).cpu(), labels.cpu()
            _check(logits, labels)
            right.append(logits.argmax(1) == labels)
        if not right:
            raise DataError("the validation set is empty", hint="it needs at least one sample")
        return torch.cat(right)


def logits_of(output: Any) -> Tensor:
    """The first tensor of what a model or an engine returns.

    Raises:
        ModelError: there is none, or another one is called ``logits``: an engine's outputs have an order only.
    """
    first = tensors_of(output)[0]
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor) and named is not first:
        raise ModelError(
            "the model returns its logits after another tensor", hint="return them first, or give a task file"
        )
    return first


def _pair(batch: Any) -> tuple[Example, Tensor]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        inputs, labels = batch
        parts = inputs.values() if isinstance(inputs, Mapping) else inputs
        if isinstance(inputs, Tensor) or (
            isinstance(inputs, Mapping | tuple | list) and parts and all(isinstance(part, Tensor) for part in parts)
        ):
            return cast(Example, inputs), labels
    raise DataError(
        f"classification needs batches of (inputs, labels), not {type(batch).__name__}",
        hint="let the data set return (inputs, class index), where inputs are a tensor, or a tuple or dictionary of "
        "tensors; or give a task file with your own loss and evaluate",
    )


def _check(logits: Any, labels: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"classification needs logits of shape (N, classes); the model gives {shape}",
            hint="for another task give a task file with your own loss and evaluate",
        )
    if labels.dim() != 1 or labels.dtype != torch.int64 or len(labels) != len(logits):
        raise DataError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)} for {len(logits)} outputs",
            hint="classification needs one int64 class index per sample",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise DataError(
            f"the data has label {low if low < 0 else high}, the model has {logits.shape[1]} classes",
            hint="give a model with as many outputs as the data has classes",
        )


class FileTask:
    """A task from a user's file: ``loss(model, batch)`` and ``evaluate(predict)``.

    ``predict`` maps an input tensor to an output tensor; it may be the torch model or the exported engine. The
    file may also set ``metric`` (a name) and ``higher_is_better``. What goes wrong in it is reported as its fault.

    Args:
        module: the imported file.
        source: its path, for messages.
    """

    def __init__(self, module: ModuleType, source: str) -> None:
        for name in ("loss", "evaluate"):
            if not callable(getattr(module, name, None)):
                raise InputError(
                    f"{source} has no function {name!r}", hint="define loss(model, batch) and evaluate(predict)"
                )
        self._module, self._source = module, source
        self.metric = str(getattr(module, "metric", "score"))
        self.higher_is_better = bool(getattr(module, "higher_is_better", True))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The file's ``loss``.

        Raises:
            InputError: it failed, or did not return a scalar tensor.
        """
        loss = self._run("loss", model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"loss in {self._source} returned {what}", hint="return one scalar tensor")
        return loss

    def evaluate(self, predict: Predict, batches: Iterable[Any]) -> float:
        """The file's ``evaluate``; it brings its own data, ``batches`` is not used.

        Raises:
            InputError: it failed, or did not return a finite number.
        """
        value = self._run("evaluate", predict)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"evaluate in {self._source} returned a {type(value).__name__}", hint="return one number"
            ) from error
        if not math.isfinite(number):
            raise InputError(f"evaluate in {self._source} returned {number}", hint="return a finite number")
        return number

    def _run(self, name: str, *arguments: Any) -> Any:
        try:
            with importable(self._source):
                return getattr(self._module, name)(*arguments)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{name} in {self._source} failed: {type(error).__name__}: {error}", hint="mend it there"
            ) from error


def load_task(path: str | Path) -> Task:
    """Read a task from a Python file with ``loss(model, batch)`` and ``evaluate(predict)``.

    Raises:
        InputError: no such file, it cannot be imported, or a function is missing.
    """
    module = load_module(
        str(path), error=InputError, forms="a Python file with loss(model, batch) and evaluate(predict)"
    )
    return FileTask(module, str(path))
