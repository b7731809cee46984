"""This machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hwprune import device_worker
from hwprune.errors import InputError
from hwprune.targets.connection._base import ANCHOR, NULL, Connection, Visit
from hwprune.targets.connection.replies import error_of
from hwprune.targets.known import runtime_for
from hwprune.targets.target import Target


class LocalConnection(Connection):
    """Visits made in this process.

    Args:
        target: its ``connection`` is ``local``.
        null: a model that does nothing.
        anchor: a model that is always the same.

    Raises:
        InputError: the target cannot be measured here.
    """

    def __init__(self, target: Target, *, null: bytes, anchor: bytes) -> None:
        target.check_reachable()
        self._target, self._runtime = target, runtime_for(target)
        self._runtime.check(target)
        self._fixed, self._kept = {NULL: null, ANCHOR: anchor}, device_worker.Kept()

    def fingerprint(self) -> dict[str, Any]:
        """See ``Connection.fingerprint``."""
        return self._runtime.fingerprint()

    def run(self, visits: Iterable[Visit]) -> Iterator[dict[str, Any]]:
        """See ``Connection.run``."""
        for visit in visits:
            if visit.instrumented and not self._runtime.kernels:
                raise InputError(f"{self._runtime.name} does not tell what kernels take", hint="measure whole networks")
            reply = device_worker.run_visit(self._request(visit), {**visit.models, **self._fixed}, self._kept)
            if "error" in reply:
                raise error_of(reply["error"], visit)
            yield reply

    def close(self) -> None:
        """See ``Connection.close``."""
        self._kept.close()

    def _request(self, visit: Visit) -> dict[str, Any]:
        settings = ("id", "instrumented", "rounds", "burst", "attempts", "max_seconds", "min_clean", "seed")
        return {
            **{name: getattr(visit, name) for name in settings},
            **{name: getattr(self._target, name) for name in ("runtime", "threads", "precision")},
            "models": {name: name for name in visit.models},
            NULL: NULL,
            ANCHOR: ANCHOR,
        }
