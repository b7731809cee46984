"""What a device says about visits, read strictly: it comes from another machine, or from a file that travelled."""

from __future__ import annotations

import itertools
import math
from typing import Any

from hwprune import strict_json as strict
from hwprune.errors import HwpruneError, InputError, MeasurementError, ModelError
from hwprune.targets.connection._base import ANCHOR, INSTRUMENTED, NULL, Visit

SCHEMA_VERSION = 1
MAX_TEXT, MAX_CLOCK = 2000, 100
HINT = "measure again; if it happens again, the device runs something else than hwprune's worker"
_DEVICE = ("cpu", "isa", "machine", "runtime", "runtime_version")
_STATISTICS = (
    "p50_ms", "low_ms", "high_ms", "p90_ms", "min_ms", "iqr_ms", "cpu_p50_ms", "repeats", "clean", "calls_per_sample",
    "rounds_ms",
)  # fmt: skip
_MAYBE = ("psi_some_avg10", "load1", "other_cpus")  # where the device tells
_SLACK = 1e-9  # relative; statistics that should be equal were rounded differently
_ERRORS = {
    "refused": (MeasurementError, "stop what else is running on the device, then try again"),
    "bad_input": (ModelError, "give a model that the device's runtime can open, or try another version of the runtime"),
    "missing": (InputError, "install it on the device; hwprune targets says what each runtime needs"),
    "crashed": (ModelError, "try another version of the runtime, and see that there is memory enough"),
}


def parse(line: bytes) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise InputError("the device's answer is not UTF-8 text", hint=HINT) from None
    return strict.mapping(strict.parse_json(text, what="device's answer", hint=HINT), "the device's answer")


def read_fingerprint(line: bytes, runtime: str) -> dict[str, Any]:
    """The fingerprint from the first line of results.

    Raises:
        InputError: the line is malformed, or about another runtime.
    """
    document = strict.fields(parse(line), "the device's first line", required=("fingerprint", "schema_version"))
    version = strict.integer(document["schema_version"], "schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"the results have schema_version {version}; this hwprune reads {SCHEMA_VERSION}", hint=HINT)
    device = strict.mapping(document["fingerprint"], "fingerprint")
    _check_finite(device, "fingerprint")
    for key in _DEVICE:
        if key not in device:
            raise InputError(f"fingerprint lacks the key {key!r}", hint=HINT)
    if device["runtime"] != runtime:
        raise InputError(f"the device ran {device['runtime']!r}, and {runtime!r} was asked for", hint=HINT)
    return device


def read_reply(line: bytes, wire_id: str, visit: Visit) -> dict[str, Any]:
    """The reply about a visit, under the visit's own id.

    Args:
        line: what came.
        wire_id: the id that the device was given.
        visit: what it was asked.

    Raises:
        InputError: the line is malformed, or not about this visit; or the device lacks something.
        MeasurementError: the device was too busy.
        ModelError: it could not run a model.
    """
    document = parse(line)
    if document.get("id") != wire_id:
        raise InputError(
            f"the answer is about {printable(document.get('id'))}, and {wire_id} was asked for",
            hint="what follows # stands for the models and settings: they are not those that were measured",
        )
    if "error" in document:
        raise error_of(strict.fields(document, "the reply", required=("id", "error"))["error"], visit)
    where = f"reply {visit.id!r}"
    reply = strict.fields(document, where, required=("id", "candidates", "kernels", "clock", "contention"))
    candidates = _exactly(reply["candidates"], f"{where}: candidates", _names(visit))
    for name, statistics in candidates.items():
        _check_statistics(statistics, f"{where}: {name}", visit)
    counts = {(one["repeats"], len(one["rounds_ms"])) for one in candidates.values()}
    if len(counts) > 1:
        raise InputError(f"{where}: candidates differ in their numbers of rounds or samples", hint=HINT)
    kernels = _exactly(reply["kernels"], f"{where}: kernels", set(visit.instrumented))
    for name, listed in kernels.items():
        strict.each(listed, f"{where}: kernels of {name}", _check_kernel)
    clock = strict.text(reply["clock"], f"{where}: clock")
    if not 0 < len(clock) <= MAX_CLOCK or not clock.isprintable():
        raise InputError(f"{where}: clock is {printable(clock)!r}, no name of one", hint=HINT)
    _check_contention(reply["contention"], f"{where}: contention")
    return {**reply, "id": visit.id}


def _names(visit: Visit) -> set[str]:
    return {NULL, ANCHOR, *visit.models, *(f"{name}{INSTRUMENTED}" for name in visit.instrumented)}


def _exactly(value: Any, where: str, names: set[str]) -> dict[str, Any]:
    found = strict.mapping(value, where)
    if set(found) != names:
        odd = sorted(set(found) ^ names)
        raise InputError(f"{where} should have exactly what was asked for; wrong: {printable(odd)}", hint=HINT)
    return found


def _check_statistics(value: Any, where: str, visit: Visit) -> None:
    one = strict.fields(value, where, required=_STATISTICS)
    p50, p90, low, high, least = (
        _positive(one[key], f"{where}.{key}") for key in ("p50_ms", "p90_ms", "low_ms", "high_ms", "min_ms")
    )
    spread = _not_negative(one["iqr_ms"], f"{where}.iqr_ms")
    if one["cpu_p50_ms"] is not None:
        _not_negative(one["cpu_p50_ms"], f"{where}.cpu_p50_ms")
    repeats, clean, _ = (_count(one[key], f"{where}.{key}") for key in ("repeats", "clean", "calls_per_sample"))
    rounds = strict.each(
        one["rounds_ms"], f"{where}.rounds_ms", lambda ms, place: None if ms is None else _positive(ms, place)
    )
    seen = [ms for ms in rounds if ms is not None]
    consistent = (
        bool(seen)
        and _ascending(least, min(seen), p50, max(seen))  # a median lies between the medians of its parts
        and _ascending(least, low, high)
        and _ascending(p50, p90)
        and _ascending(spread, p90 - least + _SLACK * p90)
        and len(seen) <= clean <= repeats
        and clean >= visit.min_clean * repeats * (1 - _SLACK)
        and len(rounds) <= max(5, visit.rounds)
        and repeats % len(rounds) == 0
        and repeats // len(rounds) < max(2, visit.burst)
    )
    if not consistent:
        raise InputError(f"{where}: the statistics contradict each other, or what was asked for", hint=HINT)


def _ascending(*values: float) -> bool:
    return all(low <= high * (1 + _SLACK) for low, high in itertools.pairwise(values))


def _check_kernel(value: Any, where: str) -> None:
    one = strict.fields(value, where, required=("covers", "op", "p50_ms", "iqr_ms", "repeats"))
    strict.each(one["covers"], f"{where}.covers", strict.text)
    strict.text(one["op"], f"{where}.op")
    _not_negative(one["p50_ms"], f"{where}.p50_ms")
    _not_negative(one["iqr_ms"], f"{where}.iqr_ms")
    _count(one["repeats"], f"{where}.repeats")


def _check_contention(value: Any, where: str) -> None:
    seen = strict.fields(value, where, required=("clean_fraction", *_MAYBE, "involuntary_switches"))
    if not 0 < strict.number(seen["clean_fraction"], f"{where}.clean_fraction") <= 1:
        raise InputError(f"{where}.clean_fraction is not between 0 and 1", hint=HINT)
    for key in _MAYBE:
        if seen[key] is not None:
            _not_negative(seen[key], f"{where}.{key}")
    if strict.integer(seen["involuntary_switches"], f"{where}.involuntary_switches") < 0:
        raise InputError(f"{where}.involuntary_switches is below 0", hint=HINT)


def error_of(value: Any, visit: Visit) -> HwpruneError:
    """The error that a reply to a visit is about; InputError if it is malformed."""
    error = strict.fields(value, "the reply's error", required=("kind", "message"))
    kind = strict.text(error["kind"], "the reply's error.kind")
    message = printable(strict.text(error["message"], "the reply's error.message"))
    if kind not in _ERRORS:
        return InputError(f"the reply's error is of unknown kind {printable(kind)}", hint=HINT)
    made, hint = _ERRORS[kind]
    return made(f"measuring {visit.id}: {message}", hint=hint)


def printable(value: Any) -> str:
    """Words of another machine, fit for a terminal."""
    text = value if isinstance(value, str) else repr(value)
    kept = "".join(letter if letter.isprintable() else " " for letter in text[:MAX_TEXT])
    return f"{kept} …" if len(text) > MAX_TEXT else kept


def _positive(value: Any, where: str) -> float:
    number = strict.number(value, where)
    if number <= 0:
        raise InputError(f"{where} is {number}", hint="nothing takes no time")
    return number


def _not_negative(value: Any, where: str) -> float:
    number = strict.number(value, where)
    if number < 0:
        raise InputError(f"{where} is {number}", hint=HINT)
    return number


def _count(value: Any, where: str) -> int:
    number = strict.integer(value, where)
    if not 1 <= number < 2**31:
        raise InputError(f"{where} is {number}", hint=HINT)
    return number


def _check_finite(value: Any, where: str) -> None:
    """Free-form JSON without infinities (``1e999`` is read as one)."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} has a number that is too large", hint=HINT)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_finite(inner, where)
