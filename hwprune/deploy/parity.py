"""Does the exported engine compute what the model computes?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.deploy.engine import Engine, run_engine
from hwprune.deploy.reference import on_device_of, reference_outputs
from hwprune.errors import InputError, ParityError
from hwprune.network.difference import ROUNDINGS, moved
from hwprune.network.forward import Example, half_types, tensors_in
from hwprune.network.surgery import copied

RELATIVE_L2 = {"fp32": 1e-4, "fp16": 1e-2}  # fp32 engines show 5e-7; a wrong operator shows 1e-2 and more
_CHANGES = 3  # of last digits, to find out what rounding may make of an output
NEAR_ZERO = 8  # last digits of the largest value: an engine's sigmoid is no more exact than that where it is small
TIE = 1e-5  # a top-1 margin below this part of the logits' norm is left to rounding


def held_to(model: nn.Module, precision: str) -> str:
    """The precision whose gate an engine must pass: the target's, or ``fp16`` if the model itself is in half."""
    return "fp16" if precision == "fp32" and half_types(model) else precision


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an engine's outputs are from the model's, over all samples; the worst of all outputs.

    Attributes:
        samples: inputs compared.
        relative_l2: the largest error norm of any sample over the root mean square norm of the
            reference samples: one bad sample is not diluted by many good ones.
        relative_l2_of_part: the largest error norm in any slice along a dimension (but that of the samples), less what
            rounding may make of it, over the norm of the slice in the same batch: what is small beside the rest counts.
        cosine: of all outputs, each taken as one vector.
        max_abs_over_std: largest absolute error over the standard deviation of the reference.
        top1_agreement: fraction of samples with the same largest logit, for a model whose only output is
            (samples, classes); None for others. Samples whose reference is a tie are not counted.
        ties: samples that were not counted.
    """

    samples: int
    relative_l2: float
    relative_l2_of_part: float
    cosine: float
    max_abs_over_std: float
    top1_agreement: float | None
    ties: int

    def check(self, precision: str = "fp32") -> None:
        """Hold the numbers against the gate of a precision.

        Raises:
            ParityError: the engine is too far from the model, or nothing could be told apart.
            InputError: no gate is known for the precision.
        """
        if precision not in RELATIVE_L2:
            raise InputError(
                f"no parity gate for precision {precision!r}", hint=f"gates: {', '.join(sorted(RELATIVE_L2))}"
            )
        limit = RELATIVE_L2[precision]
        if not self.relative_l2 <= limit:  # not-less-or-equal: NaN fails
            raise ParityError(
                f"the engine's outputs differ from the model's by {self.relative_l2:.3g} (relative L2 of the worst "
                f"of {self.samples} samples); {precision} allows {limit:g}",
                hint="the export is wrong for this model: compare its operators one by one",
            )
        if not self.relative_l2_of_part <= limit:
            raise ParityError(
                f"a part of the engine's outputs differs from the model's by {self.relative_l2_of_part:.3g} of its own "
                f"norm, though the whole does not; {precision} allows {limit:g}",
                hint="compare the outputs channel by channel: the export of what makes the small ones is wrong",
            )
        if precision == "fp32" and self.top1_agreement is not None and self.top1_agreement < 1:
            raise ParityError(
                f"the engine names another class than the model for {1 - self.top1_agreement:.2%} of "
                f"{self.samples - self.ties} samples",
                hint="the export is wrong for this model: compare its operators one by one",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


class _Output:
    """Running sums over one output of the network, in float64."""

    def __init__(self) -> None:
        self.count = self.samples = 0
        self.whole = False
        self.sum = self.squares = self.engine_squares = self.product = 0.0
        self.worst_sample = self.worst_value = 0.0

    def add(self, reference: Tensor, engine: Tensor, samples: int) -> None:
        """Take in one batch; a tensor without a batch dimension of that size counts as one sample."""
        if reference.shape != engine.shape:
            raise ParityError(
                f"the engine returns shape {tuple(engine.shape)}, the model {tuple(reference.shape)}",
                hint="export the same model with the same example input",
            )
        rows = samples if reference.dim() and reference.shape[0] == samples else 1
        r, e = reference.double().reshape(rows, -1), engine.double().reshape(rows, -1)
        error = (e - r).abs()
        self.whole = not reference.is_floating_point()
        self.count += r.numel()
        self.samples += rows
        self.sum += float(r.sum())
        self.squares += float(r.square().sum())
        self.engine_squares += float(e.square().sum())
        self.product += float((r * e).sum())
        self.worst_sample = _greater(self.worst_sample, float(error.norm(dim=1).max()))
        self.worst_value = _greater(self.worst_value, float(error.max()))

    @property
    def relative_l2(self) -> float:
        return _over(self.worst_sample, math.sqrt(self.squares / self.samples))

    @property
    def cosine(self) -> float:
        if not self.squares and not self.engine_squares:
            return 1.0
        return self.product / math.sqrt(self.squares * self.engine_squares) if self.product else 0.0

    @property
    def max_abs_over_std(self) -> float:
        variance = self.squares / self.count - (self.sum / self.count) ** 2
        return _over(self.worst_value, math.sqrt(max(variance, 0.0)))


def compare(model: nn.Module, engine: Engine, batches: Iterable[Example], *, precision: str = "fp32") -> Parity:
    """Run model and engine on the same inputs.

    Args:
        model: the reference, run in evaluation mode in its own precision; it is left as it was.
        engine: opened by a runtime.
        batches: the inputs of ``forward`` (no labels): a tensor, or for a model with several inputs a tuple of
            tensors or a dictionary of them by name; any batch. Real inputs: noise does not reach what a trained
            network reacts to.
        precision: that the engine computes in; its rounding is not held against a part of an output.

    Raises:
        InputError: no batch was given, or the engine cannot take it.
        ModelError: ``forward`` fails.
        ParityError: shapes or the number of outputs differ, or the model's outputs are zero everywhere,
            so that nothing can be told from them.
    """
    outputs: list[_Output] = []
    samples = agreed = ties = 0
    part = 0.0
    for batch in batches:
        reference, found = reference_outputs(model, batch), run_engine(engine, batch)
        if len(reference) != len(found):
            raise ParityError(
                f"the engine has {len(found)} outputs, the model {len(reference)}", hint="export the same model"
            )
        outputs = outputs or [_Output() for _ in reference]
        size = tensors_in(batch)[0].shape[0]
        samples += size
        for output, r, e in zip(outputs, reference, found, strict=True):
            output.add(r, e, size)
        part = _greater(part, _worst_part(reference, found, _Movement(model, batch, precision), size))
        same, tied = _top1(reference, found)
        agreed, ties = agreed + same, ties + tied
    if not samples:
        raise InputError("there is no input to compare the engine with the model on", hint="give at least one batch")
    if any(output.squares == 0 and not output.whole for output in outputs):
        raise ParityError(
            "the model returns zeros for every sample: the comparison says nothing", hint="use real inputs and weights"
        )
    classified = len(reference) == 1 and _is_classes(reference[0]) and samples > ties
    return Parity(
        samples=samples,
        relative_l2=max((output.relative_l2 for output in outputs), key=_nan_last),
        relative_l2_of_part=part,
        cosine=min(output.cosine for output in outputs),
        max_abs_over_std=max((output.max_abs_over_std for output in outputs), key=_nan_last),
        top1_agreement=agreed / (samples - ties) if classified else None,
        ties=ties,
    )


class _Movement:
    """What rounding may make of outputs: how far they move when last digits change, found out when it is asked for."""

    def __init__(self, model: nn.Module, batch: Example, precision: str) -> None:
        self._model, self._batch = model, batch
        self.digit = torch.finfo(torch.float16 if precision == "fp16" else torch.float32).eps

    @cached_property
    def outputs(self) -> list[Sequence[Tensor]]:
        changes = moved(copied(self._model), on_device_of(self._model, self._batch), reference_outputs)
        return list(itertools.islice(changes, _CHANGES))

    def allowed(self, output: int, reference: Tensor, dim: int) -> Tensor:
        """Norm of every slice along a dimension of an output."""
        coarser = self.digit / torch.finfo(reference.dtype).eps
        ways = [_norms(one[output].double() - reference.double(), dim) for one in self.outputs]
        return ROUNDINGS * max(coarser, 1.0) * torch.stack(ways).amax(0)


def _worst_part(reference: Sequence[Tensor], found: Sequence[Tensor], movement: _Movement, samples: int) -> float:
    """Of every slice along every dimension but that of the samples, the error less rounding, over the norm."""
    worst = 0.0
    for number, (r, e) in enumerate(zip(reference, found, strict=True)):
        if not r.is_floating_point() or not r.numel():
            continue
        first = 1 if r.shape[:1] == (samples,) else 0
        near_zero = NEAR_ZERO * movement.digit * float(r.double().abs().max())
        for dim in range(first, r.dim()):
            norms, errors = _norms(r.double(), dim), _norms(e.double() - r.double(), dim)
            errors = errors - near_zero * math.sqrt(r.numel() / r.shape[dim])
            if (errors > RELATIVE_L2["fp32"] * norms).any():
                errors = errors - movement.allowed(number, r, dim)
            wrong = errors > 0
            worst = max([worst, *(errors[wrong] / norms[wrong]).tolist()])
    return worst


def _norms(tensor: Tensor, dim: int) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(tensor.transpose(0, dim).reshape(tensor.shape[dim], -1), dim=1)
    return norms


def _top1(reference: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> tuple[int, int]:
    """Samples whose largest logit agrees, and samples where the reference has no clear one."""
    if len(reference) != 1 or not _is_classes(reference[0]):
        return 0, 0
    best = reference[0].double().topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > TIE * reference[0].double().norm(dim=1)
    same = reference[0].argmax(dim=1) == found[0].argmax(dim=1)
    return int((same & clear).sum()), int((~clear).sum())


def _is_classes(output: Tensor) -> bool:
    return output.dim() == 2 and output.shape[1] >= 2


def _greater(a: float, b: float) -> float:
    """Maximum that keeps a NaN."""
    return max(a, b, key=_nan_last)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _over(error: float, scale: float) -> float:
    if scale == 0:
        return 0.0 if error == 0 else math.inf
    return error / scale
