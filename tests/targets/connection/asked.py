"""What the tests ask of devices."""

from __future__ import annotations

from typing import Any

from hwprune.targets.connection._base import Visit

FIXED = {"null": b"nothing", "anchor": b"the anchor"}


def visit(name: str, **settings: Any) -> Visit:
    models = {"dense": b"dense of " + name.encode(), "half": b"half of " + name.encode()}
    return Visit(**{"id": name, "models": models, "instrumented": ("dense",), "rounds": 5, "burst": 3, **settings})


def visits(*names: str) -> list[Visit]:
    return [visit(name) for name in names]
