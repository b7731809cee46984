"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.errors import InputError


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a TOML file the defaults of this verb's flags; flags on the command line win."""
    if path is None:
        return None
    known = {parameter.name for parameter in context.command.params}
    context.default_map = {**(context.default_map or {}), **_read_toml(path, known)}
    return path


def _read_toml(path: Path, known: Set[str | None]) -> dict[str, Any]:
    import difflib
    import tomllib

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"cannot read {path}: {error}", hint="give a TOML file with the same keys as the flags"
        ) from error
    values = {key.replace("-", "_"): value for key, value in document.items()}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, [name for name in known if name], n=1)
            raise InputError(
                f"{path}: unknown key {key!r}",
                hint=f"did you mean {near[0]!r}?" if near else "use the names of this verb's flags",
            )
    return {
        key: ",".join(str(part) for part in value) if isinstance(value, list) else value
        for key, value in values.items()
    }


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``1,3,224,224``.

    Raises:
        InputError: not comma-separated positive whole numbers.
    """
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) < 2 or any(size < 1 for size in shape):
        raise InputError(f"input shape {text!r} is not a shape", hint="give sizes batch first, such as 1,3,224,224")
    return shape


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the same keys as the flags.", callback=_load_config, is_eager=True),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Model = Annotated[
    str,
    typer.Option(help="file.py:factory, package.module:factory, zoo:NAME, timm:NAME or torchvision:NAME."),
]
Weights = Annotated[Path | None, typer.Option(help=".safetensors, or .pt that holds tensors only.")]
InputShape = Annotated[str, typer.Option(help="Shape of one input, batch first: 1,3,224,224.")]
TargetName = Annotated[str, typer.Option("--target", help="A known target (see hwprune targets) or a TOML file.")]
Threads = Annotated[int | None, typer.Option(help="Threads; overrides the target's.", min=1)]
Precision = Annotated[str | None, typer.Option(help="Precision; overrides the target's.")]
Batch = Annotated[int | None, typer.Option(help="Batch size; overrides the target's.", min=1)]
