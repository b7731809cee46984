"""Ways to a device: this machine, one behind ssh, or one to which a kit is carried."""

from __future__ import annotations

from typing import Any

from hwprune.targets.address import PREFIX
from hwprune.targets.connection._base import ANCHOR as ANCHOR
from hwprune.targets.connection._base import NULL as NULL
from hwprune.targets.connection._base import Connection as Connection
from hwprune.targets.connection._base import Visit as Visit
from hwprune.targets.connection.local import LocalConnection as LocalConnection
from hwprune.targets.connection.packed import UnpackedConnection as UnpackedConnection
from hwprune.targets.connection.packed import pack as pack
from hwprune.targets.connection.ssh import SshConnection as SshConnection
from hwprune.targets.known import runtime_for
from hwprune.targets.target import Target

__all__ = [
    "ANCHOR",
    "NULL",
    "Connection",
    "LocalConnection",
    "SshConnection",
    "UnpackedConnection",
    "Visit",
    "connect",
    "device_at",
    "pack",
]


def connect(target: Target, *, null: bytes, anchor: bytes) -> Connection:
    """The way to a target. Use it in a ``with`` block.

    Args:
        target: a device that can be reached.
        null: a model that does nothing; it and the anchor take part in every visit.
        anchor: a model that is always the same.

    Raises:
        InputError: the target cannot be measured from here.
    """
    kind = SshConnection if target.connection.startswith(PREFIX) else LocalConnection
    return kind(target, null=null, anchor=anchor)


def device_at(target: Target) -> dict[str, Any]:
    """The device of a target, wherever it is; see ``device_runner.fingerprint``.

    Raises:
        InputError: it cannot be reached, or lacks the runtime.
    """
    if not target.connection.startswith(PREFIX):
        return runtime_for(target).fingerprint()
    with SshConnection(target, null=b"", anchor=b"") as connection:
        return connection.fingerprint()
