"""``hwprune verify``: re-check a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprune.cli.options import Config, Json, Seed
from hwprune.cli.output import emit

NAME = "verify"


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder.")],
    latency: Annotated[bool, typer.Option(help="Measure latency too, on the same device.")] = True,
    public_key: Annotated[Path | None, typer.Option(help="Refuse what this Ed25519 key (PEM) did not sign.")] = None,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Check a bundle's hashes, signature, golden outputs and, on the same device, its latency."""
    from hwprune.deploy import verify

    result = verify(bundle, latency=latency, public_key=public_key)
    lines = [f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['detail']}" for check in result["checks"]]
    emit(result, as_json=json, text="\n".join(lines))
    return 0 if result["ok"] else 1
