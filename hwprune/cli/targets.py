"""``hwprune targets``: the devices that need no file."""

from __future__ import annotations

from hwprune.cli.options import Json
from hwprune.cli.output import emit

NAME = "targets"


def command(json: Json = False) -> int:
    """List the targets that need no file, and whether they can be used here."""
    from hwprune.targets import known_targets, runtime_for

    rows = []
    for name, target in known_targets().items():
        reason = runtime_for(target).unavailable()
        rows.append({**target.to_dict(), "name": name, "available": reason is None, "reason": reason})
    lines = [
        f"{row['name']:26} {row['runtime']}, {row['precision']}, batch {row['batch']}, threads {row['threads']}: "
        + ("ready" if row["available"] else f"not usable here: {row['reason']}")
        for row in rows
    ]
    emit({"targets": rows}, as_json=json, text="\n".join(lines))
    return 0
