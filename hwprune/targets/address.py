"""Where a device is reached: ``ssh://[user@]host[:port]``, read strictly because it ends up on a command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwprune.errors import InputError

PREFIX = "ssh://"
_HINT = (
    "write ssh://[user@]host[:port]; other settings belong in ~/.ssh/config, under a name of your choice for the host"
)
# Neither user nor host may begin with "-", which ssh would take for an option.
_FORM = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class Address:
    """The parts of an ssh address.

    Attributes:
        host: a name, an alias of the user's ssh configuration, or an IP address (IPv6 without its brackets).
        user: None: what ssh chooses.
        port: None: what ssh chooses.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            InputError: it is anything but ``ssh://[user@]host[:port]``.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            raise InputError(f"{text!r} is no ssh address", hint=_HINT)
        port = int(form["port"]) if form["port"] else None
        if port is not None and not 1 <= port <= 65535:
            raise InputError(f"{text!r} names port {port}", hint="ports go from 1 to 65535")
        return cls(form["host"].strip("[]"), form["user"], port)

    def arguments(self) -> list[str]:
        """The words of ssh's command line that lead there."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]
