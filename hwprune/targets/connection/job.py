"""Visits as a device gets them: files with their hashes, and a list of requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hwprune.targets.connection._base import ANCHOR, NULL, Visit
from hwprune.targets.connection.replies import SCHEMA_VERSION
from hwprune.targets.target import Target


@dataclass(frozen=True)
class Request:
    """One visit on its way.

    Attributes:
        visit: what to measure.
        document: the same for the worker. Its id ends in a digest of everything that is asked, contents of the
            models included, so that an answer to anything else is recognised.
        models: contents by file name; the names are their hashes.
    """

    visit: Visit
    document: dict[str, Any]
    models: dict[str, bytes]

    @property
    def id(self) -> str:
        """The id that the device knows."""
        return str(self.document["id"])


def request(visit: Visit, target: Target, *, null: bytes, anchor: bytes) -> Request:
    """Prepare a visit for its way."""
    names = {name: model_name(model) for name, model in visit.models.items()}
    document: dict[str, Any] = {
        "runtime": target.runtime,
        "threads": target.threads,
        "precision": target.precision,
        "seed": visit.seed,
        "models": names,
        "instrumented": list(visit.instrumented),
        NULL: model_name(null),
        ANCHOR: model_name(anchor),
        "rounds": visit.rounds,
        "burst": visit.burst,
        "attempts": visit.attempts,
        "max_seconds": visit.max_seconds,
        "min_clean": visit.min_clean,
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    models = {model_name(model): model for model in (null, anchor, *visit.models.values())}
    return Request(visit, {"id": f"{visit.id}#{digest[:16]}", **document}, models)


def model_name(model: bytes) -> str:
    """The name of a model's file on the device."""
    return f"model-{hashlib.sha256(model).hexdigest()}"


def record(content: bytes) -> dict[str, Any]:
    """What a file must be on the other side."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def job_document(runtime: str, visits: list[dict[str, Any]], files: dict[str, dict[str, Any]], part: int = 0) -> bytes:
    """The contents of ``job.json``.

    Args:
        runtime: the runtime of all visits.
        visits: documents of the requests, in order.
        files: record by name, of every file that the worker may open.
        part: tells jobs apart that ask the same.
    """
    head = {"schema_version": SCHEMA_VERSION, "runtime": runtime, "part": part}
    document = {**head, "visits": visits, "files": dict(sorted(files.items()))}
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def in_chunks(requests: Iterable[Request], most_bytes: int) -> Iterator[list[Request]]:
    """Requests in order, as many at a time as have models of so many bytes together, at least one."""
    chunk: list[Request] = []
    models: dict[str, int] = {}
    for one in requests:
        sizes = {name: len(model) for name, model in one.models.items()}
        if chunk and sum({**models, **sizes}.values()) > most_bytes:
            yield chunk
            chunk, models = [], {}
        chunk.append(one)
        models |= sizes
    if chunk:
        yield chunk
