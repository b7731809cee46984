"""Reading a latency table strictly: what is not exactly right is refused, with a sentence that says where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from hwprune import strict_json as strict
from hwprune.errors import InputError, TableError
from hwprune.latency.curve import BENT, Curve
from hwprune.latency.entry import Entry, HeldOut
from hwprune.latency.fusion import Question
from hwprune.latency.key import WEIGHT_OPS, Key
from hwprune.latency.resizing import CHANNELS
from hwprune.targets import Target

SCHEMA_VERSION = 2
MAX_BYTES = 16 * 1024 * 1024
HINT = "give a table written by hwprune profile; latency_tables/README.md describes the format"
_TOP = (
    "schema_version", "target", "device", "protocol", "channel_step", "scale", "scale_source", "overhead_ms",
    "curve", "held_out", "fusion", "entries",
)  # fmt: skip
_ENTRY = ("op", "fused", "attributes", "inputs", "axes", "latency_ms", "iqr_ms", "repeats", "how")
_HOW = ("alone", "in context")
_HELD_OUT = ("predicted_ms", "measured_ms")
_QUESTION = ("op", "into", "rank", "chain", "fuses")
_DEVICE = ("cpu", "isa", "machine", "runtime", "runtime_version")
_PROTOCOL = (
    "clock", "rounds", "burst", "points", "networks", "seed", "null_run_ms", "anchor_drift", "clean_fraction",
    "measured_at", "hwprune",
)  # fmt: skip
_IN_CONTEXT = ("other_cpus", "anchor_ms", "kernel_bias_ms", "kernel_scale", "unattributed")
_TEXTS = ("clock", "measured_at", "hwprune")
_COUNTS = ("rounds", "burst", "points", "networks", "seed")
_PARTS = ("clean_fraction", "unattributed")
_UNITS = ("us", "ns", "s", "seconds", "usec", "msec")


def read_table(path: Path) -> dict[str, Any]:
    """The fields of a :class:`hwprune.latency.LatencyTable`, from its file.

    Raises:
        TableError: the file cannot be read, or is not exactly a table; names the file and the place.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"it has {path.stat().st_size} bytes; at most {MAX_BYTES} are read", hint=HINT)
        return parse_table(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TableError(f"cannot read the latency table {path}: {error.strerror or error}", hint=HINT) from error
    except UnicodeDecodeError as error:
        raise TableError(f"latency table {path}: it is not UTF-8 text", hint=HINT) from error
    except InputError as error:
        raise TableError(f"latency table {path}: {error.message}", hint=error.hint or HINT) from error


def parse_table(text: str) -> dict[str, Any]:
    """The fields of a table, from its text.

    Raises:
        InputError: not exactly a table; names the place.
    """
    document = strict.parse_json(text, what="table", hint=HINT)
    # Checked first: in a file of another version, other keys are no mistake.
    if strict.mapping(document, "the table").get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise InputError(
            f"schema_version is {document['schema_version']!r}; this hwprune reads {SCHEMA_VERSION}",
            hint="measure the table again with this version of hwprune profile",
        )
    top = _fields(document, "the table", _TOP)
    strict.integer(top["schema_version"], "schema_version")
    entries = strict.each(top["entries"], "entries", _read_entry)
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        first = seen.setdefault(entry.key.identity, index)
        if first != index:
            raise InputError(f"entries[{index}] is about the same layers as entries[{first}]", hint="keep one of them")
    device = _plain(strict.mapping(top["device"], "device"), "device")
    for name in _DEVICE:
        if name not in device:
            raise InputError(f"device lacks the key {name!r}", hint=f"required keys: {', '.join(_DEVICE)}")
    return {
        "target": Target.from_dict(strict.mapping(top["target"], "target"), source="target"),
        "device": device,
        "protocol": _read_protocol(top["protocol"]),
        "channel_step": _positive_integer(top["channel_step"], "channel_step"),
        "scale": _positive(top["scale"], "scale"),
        "scale_source": _read_scale_source(top["scale_source"]),
        "overhead_ms": _not_negative(top["overhead_ms"], "overhead_ms"),
        "curve": _read_curve(top["curve"]),
        "held_out": _read_held_out(top["held_out"]),
        "fusion": _read_fusion(top["fusion"]),
        "entries": entries,
    }


def _fields(value: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object with exactly these keys; a time in another unit gets its own sentence."""
    for key in strict.mapping(value, where):
        base, _, unit = key.rpartition("_")
        if key in ("unit", "units") or (unit in _UNITS and f"{base}_ms" in required):
            raise InputError(
                f"{where} has the key {key!r}: times are milliseconds, under keys that end in _ms",
                hint="convert the times to milliseconds",
            )
    return strict.fields(value, where, required=required, optional=optional)


def _read_protocol(value: Any) -> dict[str, Any]:
    document = _fields(value, "protocol", _PROTOCOL, _IN_CONTEXT)
    for name, item in document.items():
        where = f"protocol.{name}"
        if name in _TEXTS:
            strict.text(item, where)
        elif item is None and name == "other_cpus":
            continue  # the device does not tell
        elif _not_negative(strict.integer(item, where) if name in _COUNTS else item, where) > 1 and name in _PARTS:
            raise InputError(f"{where} is {item}", hint="it is a part of the whole: it must be from 0 to 1")
    return document


def _read_scale_source(value: Any) -> dict[str, Any]:
    document = _fields(value, "scale_source", ("method",), ("measured_ms", "sum_ms"))
    for key in ("measured_ms", "sum_ms"):
        if key in document:
            _positive(document[key], f"scale_source.{key}")
    strict.text(document["method"], "scale_source.method")
    return document


def _read_curve(value: Any) -> Curve:
    document = _fields(value, "curve", ("exponent", "factor", "at_ms"))
    read = {name: _positive(document[name], f"curve.{name}") for name in document}
    if not 1 - BENT - 1e-6 <= read["exponent"] <= 1 + BENT + 1e-6:
        raise InputError(f"curve.exponent is {read['exponent']}", hint=f"it must be within {BENT} of 1")
    if not 0.1 <= read["factor"] <= 10:
        raise InputError(f"curve.factor is {read['factor']}", hint="it must be near 1")
    return Curve(**read)


def _read_held_out(value: Any) -> HeldOut | None:
    if value is None:
        return None
    document = _fields(value, "held_out", _HELD_OUT)
    predicted, measured = (strict.each(document[name], f"held_out.{name}", _positive) for name in _HELD_OUT)
    if not measured or len(predicted) != len(measured):
        raise InputError(
            f"held_out has {len(predicted)} predictions for {len(measured)} measurements", hint="give one for each"
        )
    return HeldOut(predicted, measured)


def _read_fusion(value: Any) -> dict[Question, bool]:
    found: dict[Question, bool] = {}
    for question, answer in strict.each(value, "fusion", _read_answer):
        if question in found:
            raise InputError(f"fusion answers {question} twice", hint="keep one answer")
        found[question] = answer
    return found


def _read_answer(value: Any, where: str) -> tuple[Question, bool]:
    document = strict.fields(value, where, required=_QUESTION)
    if not isinstance(document["fuses"], bool):
        raise InputError(f"{where}.fuses is {document['fuses']!r}", hint="it must be true or false")
    question = Question(
        op=strict.text(document["op"], f"{where}.op"),
        into=strict.text(document["into"], f"{where}.into"),
        rank=_rank(document["rank"], f"{where}.rank"),
        chain=strict.each(document["chain"], f"{where}.chain", strict.text),
    )
    return question, document["fuses"]


def _rank(value: Any, where: str) -> int:
    number = strict.integer(value, where)
    if not 0 <= number <= 64:
        raise InputError(f"{where} is {number}", hint="it must be the number of dimensions of a tensor")
    return number


def _read_how(value: Any, where: str) -> str:
    if value not in _HOW:
        raise InputError(f"{where} is {value!r}", hint=f"allowed: {', '.join(_HOW)}")
    return str(value)


def _read_entry(value: Any, where: str) -> Entry:
    entry = _fields(value, where, _ENTRY)
    axes = strict.each(entry["axes"], f"{where}.axes", _read_axis)
    key = Key(
        op=strict.text(entry["op"], f"{where}.op"),
        attributes=_plain(strict.mapping(entry["attributes"], f"{where}.attributes"), f"{where}.attributes"),
        inputs=strict.each(entry["inputs"], f"{where}.inputs", _read_shape),
        axes=tuple(name for name, _ in axes),
        fused=strict.each(entry["fused"], f"{where}.fused", strict.text),
    )
    allowed = (("in_channels", "out_channels"), (CHANNELS,)) if key.op in WEIGHT_OPS else ((CHANNELS,), ())
    if key.axes not in allowed:
        raise InputError(
            f"{where}.axes are named {list(key.axes)} for operator {key.op!r}",
            hint="allowed: " + " or ".join(str(list(names)) for names in allowed),
        )

    def grid(name: str, read: Callable[[Any, str], float]) -> Any:
        return _read_grid(entry[name], f"{where}.{name}", axes, read)

    return Entry(
        key=key,
        sizes=tuple(sizes for _, sizes in axes),
        latency_ms=np.array(grid("latency_ms", _positive), dtype=np.float64),
        iqr_ms=np.array(grid("iqr_ms", _not_negative), dtype=np.float64),
        repeats=np.array(grid("repeats", _positive_integer), dtype=np.int64),
        how=_read_how(entry["how"], f"{where}.how"),
    )


def _read_axis(value: Any, where: str) -> tuple[str, tuple[int, ...]]:
    axis = strict.fields(value, where, required=("name", "sizes"))
    sizes = strict.each(axis["sizes"], f"{where}.sizes", _positive_integer)
    if not sizes:
        raise InputError(f"{where}.sizes is empty", hint="give the channel counts that were measured")
    for before, after in itertools.pairwise(sizes):
        if after <= before:
            raise InputError(f"{where}.sizes has {after} after {before}", hint="channel counts must ascend")
    return strict.text(axis["name"], f"{where}.name"), sizes


def _read_shape(value: Any, where: str) -> tuple[int | None, ...]:
    return strict.each(value, where, lambda size, place: None if size is None else _positive_integer(size, place))


def _read_grid(
    value: Any, where: str, axes: tuple[tuple[str, tuple[int, ...]], ...], read: Callable[[Any, str], float]
) -> Any:
    """Nested lists, one level per axis and one item per size."""
    if not axes:
        return read(value, where)
    name, sizes = axes[0]
    values = strict.items(value, where)
    if len(values) != len(sizes):
        raise InputError(
            f"{where} has {len(values)} items for the {len(sizes)} sizes of axis {name!r}", hint="give one per size"
        )
    return [_read_grid(item, f"{where}[{index}]", axes[1:], read) for index, item in enumerate(values)]


def _positive(value: Any, where: str) -> float:
    number = strict.number(value, where)
    if number <= 0:
        raise InputError(f"{where} is {value}", hint="it must be above 0; nothing is free")
    return number


def _not_negative(value: Any, where: str) -> float:
    number = strict.number(value, where)
    if number < 0:
        raise InputError(f"{where} is {value}", hint="it must be 0 or above")
    return number


def _positive_integer(value: Any, where: str) -> int:
    number = strict.integer(value, where)
    if not 1 <= number < 2**31:
        raise InputError(f"{where} is {number}", hint="it must be a whole number from 1 to 2147483647")
    return number


def _plain(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Free-form JSON without infinities (``1e999`` is read as one)."""

    def check(item: Any, place: str) -> None:
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{place} is too large for a number", hint="give a finite number")
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for name, inner in cast("Any", pairs):
            check(inner, f"{place}.{name}")

    check(value, where)
    return dict(value)
