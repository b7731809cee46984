"""Knowledge distillation: learn what the dense network answers."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.errors import ModelError
from hwprune.training.evaluation import device_of
from hwprune.training.modes import keeping_modes
from hwprune.training.task import logits_of


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Soft-target loss of Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2.

    ``T² · KL(softmax(teacher/T) ‖ softmax(student/T))``, averaged over everything but the classes; the factor T² keeps
    the gradient's size when T changes.

    Args:
        student: logits, (N, classes, …).
        teacher: logits of the same shape.
        temperature: T > 0.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(1).mean() * temperature**2


class Distillation:
    """Listens to the student's forward passes and compares each with the teacher's answer.

    The task's loss calls the student as it likes; a hook keeps the last inputs and output, so that distillation works
    with any task and costs no second forward pass of the student. Use it as a context manager.

    Args:
        student: the module that the loss calls.
        teacher: in eval mode and on the student's device for the time being; it gets no gradients.
        weight: share of the distillation loss, in [0, 1].
        temperature: see :func:`distillation_loss`.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, *, weight: float, temperature: float) -> None:
        self._student, self._teacher = student, teacher
        self._weight, self._temperature = weight, temperature
        self._seen: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None

    def __enter__(self) -> Distillation:
        self._hook = self._student.register_forward_hook(self._keep, with_kwargs=True)
        self._after = ExitStack()
        self._after.callback(self._hook.remove)
        self._after.callback(self._teacher.to, device_of(self._teacher))
        self._after.enter_context(keeping_modes(self._teacher))
        self._teacher.to(device_of(self._student)).eval()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after.close()

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        self._seen = (inputs, keywords, output)

    def blend(self, loss: Tensor) -> Tensor:
        """``(1 − weight) · loss + weight · distillation`` for the forward pass that made ``loss``.

        Raises:
            ModelError: the loss did not call the model, or the logits are not of one shape.
        """
        if self._seen is None:
            raise ModelError(
                "the loss did not call the model", hint="distillation needs loss(model, batch) to call model(...)"
            )
        inputs, keywords, student = self._seen
        self._seen = None
        with torch.no_grad():
            teacher = self._teacher(*inputs, **keywords)
        student, teacher = logits_of(student), logits_of(teacher)
        shapes = [tuple(logits.shape) for logits in (student, teacher)]
        if shapes[0] != shapes[1] or student.dim() < 2:
            raise ModelError(
                f"distillation compares logits (N, classes, …); the model gives {shapes[0]}, the teacher {shapes[1]}",
                hint="set distill_weight to 0, or give a teacher with the same outputs",
            )
        soft = distillation_loss(student, teacher, self._temperature)
        return (1 - self._weight) * loss + self._weight * soft
