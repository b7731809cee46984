"""One network in several precisions: each held against the model, the fastest that passes is chosen by measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import onnx
from torch import nn

from hwprune.deploy.accuracy import INT8, Degradation, Gates, Judge
from hwprune.deploy.calibration import SAMPLES, Calibration, from_example, from_training
from hwprune.deploy.departure import check_parity
from hwprune.deploy.dynamic_batch import resized
from hwprune.deploy.export import exported_bytes
from hwprune.deploy.formats import from_onnx, torch_archive
from hwprune.deploy.latency import FormsMeasurement, measure_forms
from hwprune.deploy.lowering import Lowered, lower
from hwprune.deploy.parity import Parity, compare, held_to
from hwprune.errors import HwpruneError, InputError, ParityError
from hwprune.network.forward import Example, half_types
from hwprune.targets import Target, runtime_for
from hwprune.targets.target import PRECISIONS
from hwprune.training import ClassificationTask, Data, Task
from hwprune.training.data import validation_inputs

AUTO = "auto"
PARITY_SAMPLES = 64
_LARGER = 3  # batch that an engine of any batch is held against the model at, too


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a network is to be exported, and brought into lower precisions.

    Attributes:
        precision: see :func:`parse_precisions`; None for the target's own.
        gates: how much worse than the model an engine may be; without any, int8 has :data:`INT8`.
        samples: of the training set, to calibrate on.
        force: deliver the precision that was asked for even where it is no faster, or misses a gate.
        seed: decides the samples.
        opset: version of the ONNX operator set; None for the exporter's own.
        dynamic_batch: leave the batch of the ONNX file open.
    """

    precision: str | None = None
    gates: Gates = field(default_factory=Gates)
    samples: int = SAMPLES
    force: bool = False
    seed: int = 0
    opset: int | None = None
    dynamic_batch: bool = False

    def gates_of(self, precision: str) -> Gates:
        """The gates that an engine of a precision has to meet."""
        return INT8 if precision == "int8" and not self.gates.asked else self.gates


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model, and what its engines are calibrated and judged on.

    Attributes:
        model: in evaluation mode.
        example: one batch of the target's size.
        data: None: parity is checked on the example, and nothing is known about accuracy.
        task: what accuracy is.
    """

    model: nn.Module
    example: Example
    data: Data | None = None
    task: Task = field(default_factory=ClassificationTask)

    def inputs(self, batch: int) -> Iterator[Example]:
        """Real inputs from the validation set, as far as there are any, to check parity on."""
        if self.data is None or len(self.data.validation) < batch:  # type: ignore[arg-type]
            yield self.example
        else:
            yield from validation_inputs(self.data, batch, PARITY_SAMPLES)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A network in one precision.

    Attributes:
        target: with that precision.
        content: the engine, in the format of the target's runtime; None if there is none.
        parity: with the model.
        degradation: against the model; None without data.
        lowered: how it was brought into the precision; None if it was exported so.
        refused: why it must not be delivered, in words; None if it may.
    """

    target: Target
    content: bytes | None = None
    parity: Parity | None = None
    degradation: Degradation | None = None
    lowered: Lowered | None = None
    refused: str | None = None

    @property
    def precision(self) -> str:
        """Of the engine."""
        return self.target.precision


def parse_precisions(text: str, target: Target) -> tuple[str, ...]:
    """``int8``; ``fp32,fp16``; or ``auto``, all that the target's runtime offers.

    Raises:
        InputError: there is no such precision, or the runtime does not offer it.
    """
    offered = runtime_for(target).precisions
    if text == AUTO:
        return offered
    asked = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for one in asked:
        if one not in PRECISIONS:
            raise InputError(
                f"precision {one!r} is unknown", hint=f"{', '.join(PRECISIONS)}, a list of these, or {AUTO}"
            )
        if one not in offered:
            raise InputError(
                f"target {target.name!r} has no precision {one!r}", hint=f"its runtime offers {', '.join(offered)}"
            )
    return asked


def forms_of(source: Source, target: Target, precisions: Sequence[str], asked: Asked) -> list[Form]:
    """The network in float32 (or in the model's own type), then in every other precision that was asked for.

    Raises:
        InputError: int8 or a gate was asked for without data, or an operator set that there is not.
        ParityError: the export itself is wrong.
        ModelError: the model has no form that the target's runtime opens.
    """
    if source.data is None and (asked.gates.asked or tuple(precisions) == ("int8",)):
        what = "a gate" if asked.gates.asked else "int8"
        raise InputError(f"{what} needs data, and none was given", hint="give --data")
    own = "fp16" if half_types(source.model) and "fp16" in precisions and "fp32" not in precisions else "fp32"
    exported = _exported(source, target, asked)
    judge = None if source.data is None else Judge(source.model, source.data, source.task)
    first = _judged(Form(target=replace(target, precision=own), content=exported), source, judge, asked)
    if first.refused is not None and first.degradation is None:
        raise ParityError(first.refused, hint="the export is wrong for this model: compare its operators one by one")
    others = [replace(target, precision=one) for one in precisions if one != own]
    return [first, *(_judged(_lowered(exported, one, source, judge, asked), source, judge, asked) for one in others)]


def _exported(source: Source, target: Target, asked: Asked) -> bytes:
    made = runtime_for(target).model_format
    if made == "torch" and asked.opset is not None:
        raise InputError(
            f"opset {asked.opset} is one of ONNX, and target {target.name!r} runs archives of torch.export",
            hint="leave the opset out, or take a target whose runtime opens ONNX",
        )
    if asked.dynamic_batch and (made != "onnx" or target.runtime == "tensorrt" or target.batch != 1):
        raise InputError(
            f"target {target.name!r} ({target.runtime}, batch {target.batch}) takes no open batch",
            hint="it is for ONNX Runtime and OpenVINO, and measured at batch 1; leave --dynamic-batch out",
        )
    if made == "torch":
        return torch_archive(source.model, source.example)
    model, example = source.model, source.example
    return from_onnx(exported_bytes(model, example, opset=asked.opset, dynamic_batch=asked.dynamic_batch), target)


def _lowered(exported: bytes, target: Target, source: Source, judge: Judge | None, asked: Asked) -> Form:
    if half_types(source.model):
        return Form(target=target, refused="the model is in half precision itself")
    if target.precision == "int8" and judge is None:
        return Form(target=target, refused="int8 needs data to be calibrated on")
    try:
        made = lowered_to(exported, target, calibration_of(exported, source, target, asked), judge, asked)
    except HwpruneError as error:
        return Form(target=target, refused=error.message)
    return Form(target=target, content=made.content, lowered=made)


def calibration_of(exported: bytes, source: Source, target: Target, asked: Asked) -> Calibration:
    """Training samples, or without data the example."""
    if source.data is None:
        return from_example(exported, source.example, seed=asked.seed)
    return from_training(exported, source.data, batch=target.batch, samples=asked.samples, seed=asked.seed)


def lowered_to(exported: bytes, target: Target, calibration: Calibration, judge: Judge | None, asked: Asked) -> Lowered:
    """An exported model in a target's precision, as little of it left out as the gates of that precision need."""
    if target.precision == "fp16" or judge is None:
        return lower(exported, target, calibration)
    runtime, gates = runtime_for(target), asked.gates_of(target.precision)

    def met(content: bytes) -> bool:
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(content).graph.node):
            return False
        return judge.degradation(runtime.open(content, target)).passes(gates)

    return lower(exported, target, calibration, met=met)


def _judged(form: Form, source: Source, judge: Judge | None, asked: Asked) -> Form:
    """Parity, which decides for fp32 and fp16, and accuracy, which decides for all where there are gates."""
    if form.content is None:
        return form
    target, gates = form.target, asked.gates_of(form.precision)
    opened = runtime_for(target).open(form.content, target)
    held = held_to(source.model, target.precision)
    inputs = source.inputs(target.batch)
    if asked.dynamic_batch:
        inputs = chain(inputs, [resized(source.example, _LARGER)])
    parity = compare(source.model, opened, inputs, precision=held)
    form = replace(form, parity=parity)
    try:
        if held != "int8":
            onnx_file = form.content if runtime_for(target).model_format == "onnx" else None
            check_parity(parity, held, model=source.model, example=source.example, content=onnx_file)
    except ParityError as error:
        return replace(form, refused=error.message)
    if judge is None:
        return form
    lost = judge.degradation(opened)
    form = replace(form, degradation=lost)
    if lost.passes(gates):
        return form
    return replace(form, refused=f"{lost.metric} falls by {lost.lost:.4g}; {gates.allowed(lost.source):.4g} is allowed")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which form is delivered.

    Attributes:
        form: the fastest one that passes, of those that were asked for; None if there is none.
        measured: all forms that there are, float32 first.
        verdicts: precision → why it was not chosen, in words.
    """

    form: Form | None
    measured: FormsMeasurement
    verdicts: dict[str, str]

    def facts(self, forms: Sequence[Form]) -> list[dict[str, Any]]:
        """What a manifest says about every form."""
        return [
            {
                "precision": form.precision,
                "size_bytes": None if form.content is None else len(form.content),
                "latency_ms": latency.p50_ms if (latency := self.measured.latency.get(form.precision)) else None,
                "ratio": self.measured.ratio.get(form.precision),
                "parity": form.parity.to_dict() if form.parity else None,
                "accuracy": form.degradation.to_dict() if form.degradation else None,
                **(form.lowered.to_dict() if form.lowered else {}),
                "not_delivered": self.verdicts.get(form.precision),
            }
            for form in forms
        ]


def choose(forms: Sequence[Form], precisions: Sequence[str], target: Target, *, force: bool = False) -> Choice:
    """Measure all forms side by side, and take the fastest that passes.

    A lower precision is faster only if the whole interval of its ratio to float32 is below 1; it is worth nothing
    otherwise, for float32 is at hand.

    Args:
        forms: of :func:`forms_of`.
        precisions: those that were asked for.
        target: where to measure.
        force: of a single precision: take it whatever its accuracy and speed.

    Raises:
        InputError: an engine cannot be opened there.
        MeasurementError: the device was too busy.
    """
    contents = {form.precision: form.content for form in forms if form.content is not None}
    measured, first = measure_forms(contents, target), forms[0].precision
    refusals: dict[str, str | None] = {form.precision: form.refused for form in forms}
    for name, (ratio, low, high) in measured.ratio.items():
        if refusals[name] is None and high >= 1:
            refusals[name] = f"no faster than {first}: {ratio:.3g} of its latency ({low:.3g} to {high:.3g})"
    for name in refusals.keys() - set(precisions):
        refusals[name] = refusals[name] or "not asked for"
    passing = [form for form in forms if refusals[form.precision] is None]
    if force and len(precisions) == 1 and not passing:
        passing = [form for form in forms if form.precision == precisions[0] and form.content is not None]
    best = min(passing, key=lambda form: measured.latency[form.precision].p50_ms, default=None)
    fastest = "another precision is faster"
    verdicts = {name: why or fastest for name, why in refusals.items() if best is None or name != best.precision}
    return Choice(form=best, measured=measured, verdicts=verdicts)
