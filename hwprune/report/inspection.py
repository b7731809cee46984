"""What can be cut from a network and what cannot, as text for the terminal; made from the document of ``inspect``."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwprune.report.quantities import quantity

MOST_NAMES = 2  # of groups that stay whole for the same reason, unless all are asked for
_PLACE = re.compile(r" in [^()]*\)$")
_NUMBER = re.compile(r"\d+")
_UNREADABLE = re.compile("[^\t\n\r -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def readable(text: str) -> str:
    """The text with what neither XML nor a terminal should be given (control characters, half characters) replaced."""
    return _UNREADABLE.sub("\ufffd", text)


def inspection_verdict(document: Mapping[str, Any]) -> str:
    """How much can be cut, in a sentence."""
    groups, cuttable, reachable = len(document["groups"]), document["cuttable"], document["reachable"]
    if not groups:
        return "nothing in this model can be cut: it has no layer with channels"
    if not cuttable:
        return f"nothing in this model can be cut: none of its {groups} channel groups"
    parts = [
        f"{math.floor(1000 * reachable[key]) / 10:.1f}% of {quantity(key, document[key])} {name}"
        for key, name in (("parameters", "parameters"), ("macs", "multiply-accumulates"))
    ]
    return (
        f"{cuttable} of {groups} channel groups can be cut; with one step of each left, {' and '.join(parts)} are gone"
    )


def inspection_text(document: Mapping[str, Any], *, every: bool = False, width: int = 160) -> str:
    """The verdict, a table of what can be cut, and what cannot with the reasons.

    Args:
        document: what ``hwprune.inspect`` returned.
        every: each frozen group on a line of its own; otherwise those with the same reason share one.
        width: columns of text at most.
    """
    output = io.StringIO()
    console = Console(file=output, width=width, color_system=None)
    if document["cuttable"]:
        console.print(_table(document))
    lines = [inspection_verdict(document), *output.getvalue().splitlines()]
    if document["cuttable"]:
        lines.append(
            "parameters, MACs: what goes when this group alone is cut to one step, and its share of the network"
        )
    if document["blocks"]:
        lines += ["residual blocks that can be removed (compress --remove-blocks):", *_blocks(document)]
    if document["frozen"]:
        lines += ["cannot be cut:", *_frozen(document, every)]
    return readable("\n".join(line.rstrip() for line in lines))


def _table(document: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("group", overflow="fold")
    for heading in ("steps", "one step", "tensors", "parameters", "MACs"):
        table.add_column(heading, justify="right")
    for group in document["groups"]:
        if group["frozen"] is None:
            step = "1 channel" if group["positions"] == 1 else f"{group['positions']} channels"
            shares = [_share(key, group[key], document[key]) for key in ("parameters", "macs")]
            cells = (group["name"], str(group["channels"]), step, str(group["tensors"]), *shares)
            table.add_row(*map(Text, cells))  # Text: a group's name is not markup
    return table


def _share(metric: str, value: int, of: int) -> str:
    return f"{quantity(metric, value)}{value / max(1, of):7.1%}"


def _blocks(document: Mapping[str, Any]) -> list[str]:
    lines = []
    for block in document["blocks"]:
        parameters, macs = (" ".join(_share(key, block[key], document[key]).split()) for key in ("parameters", "macs"))
        lines.append(f"  {block['name']}: {parameters} of parameters, {macs} of MACs")
    return lines


def _frozen(document: Mapping[str, Any], every: bool) -> list[str]:
    frozen = [(_named(group), " ".join(group["frozen"].split())) for group in document["groups"] if group["frozen"]]
    if every:
        return [f"  {name}: {reason}" for name, reason in frozen]
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, reason in frozen:
        alike.setdefault(_NUMBER.sub("#", _PLACE.sub(")", reason)), []).append((name, reason))
    lines = []
    for entries in sorted(alike.values(), key=len, reverse=True):
        names, reasons = zip(*entries, strict=True)
        reason = reasons[0] if len(set(reasons)) == 1 else _PLACE.sub(")", reasons[0])
        rest = f" and {len(names) - MOST_NAMES} more (--all)" if len(names) > MOST_NAMES else ""
        lines.append(f"  {', '.join(names[:MOST_NAMES])}{rest}: {reason}")
    return lines


def _named(group: Mapping[str, Any]) -> str:
    return f"{group['name']} ({group['channels']})"
