"""A problem as a JSON document: to be saved, sent to somebody, and solved again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwprune import strict_json as strict
from hwprune.errors import InputError

from .axis import Addend, Axis
from .problem import Choices, Cost, CostAxis, Problem, known

SCHEMA_VERSION = 1
HINT = "give an object with schema_version, groups, costs and budgets"
_Made = TypeVar("_Made")


def write_problem(problem: Problem) -> str:
    """The problem as a JSON document."""
    blocks = {group: name for name, groups in problem.blocks.items() for group in groups}
    document = {
        "schema_version": SCHEMA_VERSION,
        "groups": {n: {"widths": list(c.widths), "saliency": list(c.saliency)} for n, c in problem.groups.items()},
        "costs": [_cost_document(cost, blocks) for cost in problem.costs],
        "budgets": problem.budgets,
        **({"blocks": {name: list(groups) for name, groups in problem.blocks.items()}} if problem.blocks else {}),
    }
    return json.dumps(document, allow_nan=False) + "\n"


def read_problem(document: str) -> Problem:
    """Read a problem strictly.

    A group may have ``lower`` and ``upper``, bounds on its widths. A cost has either ``groups`` (its table is indexed
    by the width indices of these groups, the output side last) or ``axes`` (each with ``fixed``, ``terms`` and
    ``sizes``, see :class:`~hwprune.budget.CostAxis`); ``block`` says that it is incurred while that block is there.

    Raises:
        InputError: anything that is not exactly a problem, with the place.
    """
    top = strict.fields(
        strict.parse_json(document, what="problem", hint=HINT),
        "the problem",
        required=("schema_version", "groups", "costs", "budgets"),
        optional=("blocks",),
    )
    if strict.integer(top["schema_version"], "schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"the problem has schema_version {top['schema_version']}; this hwprune reads {SCHEMA_VERSION}",
            hint="write it in the form this version reads",
        )
    listed = strict.mapping(top["groups"], "groups")
    groups = {n: _read_choices(c, f"groups.{n}") for n, c in listed.items()}
    blocks = {
        n: strict.each(b, f"blocks.{n}", strict.text)
        for n, b in strict.mapping(top.get("blocks", {}), "blocks").items()
    }
    costs = tuple(
        _read_cost(c, f"costs[{i}]", groups, blocks) for i, c in enumerate(strict.items(top["costs"], "costs"))
    )
    budgets = {n: strict.number(v, f"budgets.{n}") for n, v in strict.mapping(top["budgets"], "budgets").items()}
    problem = Problem(groups=groups, costs=costs, budgets=budgets, blocks=blocks)
    bounds = [
        {n: strict.integer(c[key], f"groups.{n}.{key}") for n, c in listed.items() if key in c}
        for key in ("lower", "upper")
    ]
    return problem.between(*bounds) if any(bounds) else problem


def load_problem(path: Path) -> Problem:
    """Read a problem's file.

    Raises:
        InputError: it cannot be read, or is not exactly a problem.
    """
    try:
        return read_problem(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", hint="give a problem as JSON") from error


def _cost_document(cost: Cost, blocks: Mapping[str, str]) -> dict[str, Any]:
    axes = [_axis_document(axis) for axis in cost.axes]
    more = {key: value for key, value in (("step", cost.step), ("block", blocks.get(cost.present))) if value}
    return {"budget": cost.budget, "name": cost.name, **more, "axes": axes, "table": cost.table.tolist()}


def _axis_document(axis: CostAxis) -> dict[str, Any]:
    products = [[list(names), multiplier] for names, multiplier in axis.axis.products]
    terms = [list(term) for term in axis.axis.terms]
    more = {"products": products} if products else {}
    return {"fixed": axis.axis.fixed, "terms": terms, **more, "sizes": list(axis.sizes)}


def _read_choices(value: Any, where: str) -> Choices:
    document = strict.fields(value, where, required=("widths", "saliency"), optional=("lower", "upper"))
    widths = strict.each(document["widths"], f"{where}.widths", strict.integer)
    saliency = strict.each(document["saliency"], f"{where}.saliency", strict.number)
    return _placed(where, lambda: Choices(widths, saliency))


def _read_cost(value: Any, where: str, groups: Mapping[str, Choices], blocks: Mapping[str, tuple[str, ...]]) -> Cost:
    more = ("groups", "axes", "name", "step", "block")
    document = strict.fields(value, where, required=("budget", "table"), optional=more)
    if ("groups" in document) == ("axes" in document):
        raise InputError(f"{where} needs either 'groups' or 'axes'", hint="'groups' is the simple form")
    if "groups" in document:
        names = strict.each(document["groups"], f"{where}.groups", strict.text)
        for name in names:
            if name not in groups:
                raise InputError(f"{where}.groups names the unknown group {name!r}", hint=known(groups))
        axes = tuple(CostAxis(Axis(terms=((name, 1),)), groups[name].widths) for name in names)
    else:
        axes = strict.each(document["axes"], f"{where}.axes", _read_axis)
    budget = strict.text(document["budget"], f"{where}.budget")
    name = strict.text(document.get("name", where), f"{where}.name")
    step = strict.text(document.get("step", ""), f"{where}.step")
    table = _read_table(document["table"], f"{where}.table")
    present = ""
    if "block" in document:
        block = strict.text(document["block"], f"{where}.block")
        if not blocks.get(block):
            raise InputError(f"{where}.block names the unknown block {block!r}", hint=f"blocks: {', '.join(blocks)}")
        present = blocks[block][0]
    return _placed(where, lambda: Cost(budget=budget, axes=axes, table=table, name=name, step=step, present=present))


def _read_axis(value: Any, where: str) -> CostAxis:
    document = strict.fields(value, where, required=("terms", "sizes"), optional=("fixed", "products"))
    terms = strict.each(document["terms"], f"{where}.terms", _read_term)
    products = strict.each(document.get("products", []), f"{where}.products", _read_product)
    sizes = strict.each(document["sizes"], f"{where}.sizes", strict.integer)
    fixed = strict.integer(document.get("fixed", 0), f"{where}.fixed")
    return _placed(where, lambda: CostAxis(Axis(fixed, terms, products), sizes))


def _read_term(value: Any, where: str) -> tuple[str, int]:
    pair = strict.items(value, where)
    if len(pair) != 2:
        raise InputError(f"{where} has {len(pair)} entries, not 2", hint='a term is ["group", multiplier]')
    return strict.text(pair[0], where), strict.integer(pair[1], where)


def _read_product(value: Any, where: str) -> Addend:
    pair = strict.items(value, where)
    names = strict.each(pair[0], where, strict.text) if len(pair) == 2 and isinstance(pair[0], list) else ()
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"{where} is no product of several groups", hint='a product is [["group", "other group"], multiplier]'
        )
    return names, strict.integer(pair[1], where)


def _read_table(value: Any, where: str) -> NDArray[np.float64]:
    """Nested lists of numbers, all of one length at each depth."""

    def numbers(item: Any, place: str) -> Any:
        return strict.each(item, place, numbers) if isinstance(item, list) else strict.number(item, place)

    try:
        return np.asarray(numbers(value, where), dtype=np.float64)
    except ValueError:
        raise InputError(f"{where} has rows of different lengths", hint="give one entry per size") from None


def _placed(where: str, make: Callable[[], _Made]) -> _Made:
    """Run ``make``, naming the place in its error."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{where}: {error.message}", hint=error.hint) from None
