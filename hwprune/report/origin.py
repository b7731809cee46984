"""Where a result comes from: the command, the settings, the device, the versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hwprune.report.content import Section, Table
from hwprune.report.quantities import UNKNOWN

COLUMNS = 100  # of a command
REPEATED = ("stay_dense",)  # settings whose flag is given once for each value


def compress_command(config: Mapping[str, Any]) -> str:
    """The command line that asks for the same run; every setting is named, for defaults may change.

    Args:
        config: of a run, as ``run.json`` has it; what is None or off has no flag.
    """
    parts = ["hwprune compress"]
    for name, value in config.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            parts.append(flag)
        elif name in REPEATED:
            parts += [shlex.join([flag, str(one)]) for one in value or ()]
        elif isinstance(value, list | tuple):
            parts.append(shlex.join([flag, ",".join(map(str, value))]))
        elif value is not None and value is not False:
            parts.append(shlex.join([flag, str(value)]))
    return _folded(parts)


def _folded(parts: Sequence[str]) -> str:
    """The parts of a command on lines that end where a shell reads on."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) < COLUMNS:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return " \\\n".join(lines)


def origin_sections(command: str, words: Sequence[str], facts: Mapping[str, Mapping[str, Any] | None]) -> list[Section]:
    """The device, then how to do it again.

    Args:
        command: that does it again.
        words: about it.
        facts: title of a table → its rows; ``device`` stands by itself.
    """
    device = facts.get("device")
    tables = [_facts(entries, name) for name, entries in facts.items() if name != "device" and entries]
    again = Section(title="How to reproduce", words=tuple(words), command=command, tables=tuple(tables))
    return [*([Section(title="Device", tables=(_facts(device, ""),))] if device else ()), again]


def _facts(entries: Mapping[str, Any], folded: str) -> Table:
    return Table(("", ""), [(str(key), _value(value)) for key, value in entries.items()], text=(1,), folded=folded)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return UNKNOWN if value is None else str(value)
