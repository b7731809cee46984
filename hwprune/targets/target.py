"""A target: the conditions under which a latency was, or will be, measured."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hwprune.errors import InputError
from hwprune.targets.address import PREFIX, Address

CONNECTIONS = ("local", "none")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device together with everything that decides how long a network takes on it.

    Attributes:
        name: what the user calls it.
        runtime: the runtime that executes engines there (``onnxruntime``).
        precision: ``fp32``, ``fp16`` or ``int8``; which of them exist is the runtime's to say.
        batch: samples per call.
        threads: threads that one call may use.
        connection: ``local`` (this machine), ``ssh://[user@]host[:port]``, or ``none`` (the device is out of reach,
            only its table is at hand).
        python: interpreter on a device reached over ssh; ``python3`` when None.
        ssh_config: configuration file for ssh instead of the user's own (``ssh -F``).

    Raises:
        InputError: a value that no target can have.
    """

    name: str
    runtime: str = "onnxruntime"
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    connection: str = "local"
    python: str | None = None
    ssh_config: str | None = None

    def __post_init__(self) -> None:
        for field in ("name", "runtime", "precision", "connection"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise InputError(f"target {field} must be text, is {value!r}", hint=f'write {field} = "..."')
        for field in ("batch", "threads"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
                raise InputError(f"target {field} is {value!r}", hint="it must be a whole number from 1 to 4096")
        if self.precision not in PRECISIONS:
            raise InputError(f"target precision is {self.precision!r}", hint=f"allowed: {', '.join(PRECISIONS)}")
        if self.connection.startswith(PREFIX):
            Address.parse(self.connection)
        elif self.connection not in CONNECTIONS:
            allowed = ", ".join((*CONNECTIONS, f"{PREFIX}[user@]host[:port]"))
            raise InputError(f"target connection is {self.connection!r}", hint=f"allowed: {allowed}")
        for field in ("python", "ssh_config"):
            self._check_ssh_setting(field, getattr(self, field))

    def _check_ssh_setting(self, field: str, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, str) or not value.isprintable() or not value.strip() or value.startswith("-"):
            raise InputError(f"target {field} is {value!r}", hint=f'write {field} = "path", not beginning with "-"')
        if not self.connection.startswith(PREFIX):
            raise InputError(
                f"target {field} is given, and connection is {self.connection!r}",
                hint=f"{field} is for a connection over ssh; leave it out",
            )

    def check_batch(self, input_shape: Sequence[int]) -> None:
        """Refuse an input shape that names another batch size; 1 names none.

        Raises:
            InputError: saying both.
        """
        if input_shape[0] not in (1, self.batch):
            raise InputError(
                f"the input shape says batch {input_shape[0]}, target {self.name} runs batch {self.batch}",
                hint=f"begin the shape with 1, or choose the target's batch, such as --batch {input_shape[0]}",
            )

    def check_reachable(self) -> None:
        """Refuse to measure a device that is not at hand.

        Raises:
            InputError: only its table is.
        """
        if self.connection == "none":
            raise InputError(
                f"target {self.name!r} cannot be measured from here (connection 'none')",
                hint='write connection = "ssh://user@host"; or hwprune profile --pack; or hwprune bench on the device',
            )

    def to_dict(self) -> dict[str, Any]:
        """The document that ``from_dict`` reads, without what is not set."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, source: str) -> Target:
        """Read a target strictly.

        Args:
            document: one key per attribute; all but ``name`` may be missing.
            source: file (and place) named in messages.

        Raises:
            InputError: an unknown key, a missing name, a value of the wrong type or out of range.
        """
        if not isinstance(document, Mapping):
            raise InputError(f"{source}: a target must be a table of keys, is {document!r}", hint=_ALLOWED)
        for key in document:
            if key not in _KEYS:
                close = difflib.get_close_matches(str(key), _KEYS, n=1)
                raise InputError(
                    f"{source}: unknown key {key!r}",
                    hint=f"did you mean {close[0]!r}? {_ALLOWED}" if close else _ALLOWED,
                )
        if "name" not in document:
            raise InputError(f"{source}: the target has no name", hint=_ALLOWED)
        try:
            return cls(**document)
        except InputError as error:
            raise InputError(f"{source}: {error.message}", hint=error.hint) from None


_KEYS = tuple(field.name for field in fields(Target))
_ALLOWED = f"allowed keys: {', '.join(_KEYS)}"
