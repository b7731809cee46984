"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.errors import InputError
from hwprune.inputs import parse_inputs, spelled


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a TOML file the defaults of this verb's flags; flags on the command line win."""
    if path is None:
        return None
    context.default_map = {**(context.default_map or {}), **_read_toml(path, context)}
    return path


def given(context: typer.Context) -> frozenset[str]:
    """Names of the parameters that came from the command line or from ``--config``, not from a default."""
    names = [parameter.name for parameter in context.command.params if parameter.name]
    sources = {name: context.get_parameter_source(name) for name in names}
    return frozenset(name for name, source in sources.items() if source is not None and source.name != "DEFAULT")


def flags(names: Iterable[str]) -> str:
    """``--input-shape, --seed``."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


def _read_toml(path: Path, context: typer.Context) -> dict[str, Any]:
    import difflib
    import tomllib

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"cannot read {path}: {error}", hint="give a TOML file with the same keys as the flags"
        ) from error
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name != "config"}
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, [name for name in known if name], n=1)
            raise InputError(
                f"{path}: unknown key {key!r}",
                hint=f"did you mean {near[0]!r}?" if near else "use the names of this verb's flags",
            )
        if name in values:
            raise InputError(f"{path}: {name!r} is given twice, with - and with _", hint="leave one of them out")
        values[name] = _as_typed(value, several=known[name].multiple)
        try:
            known[name].process_value(context, values[name])  # as if it had been typed
        except typer.BadParameter as error:
            raise InputError(
                f"{path}: {key} cannot be {value!r}: {error.message}", hint=f"see {context.command_path} --help"
            ) from error
    return values


def _as_typed(value: Any, *, several: bool) -> str | list[str]:
    """A value of a file as the words of a command line; a list is one word, or of text one for each."""
    if several and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    word = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return [word] if several else word


def inputs_in(shapes: Sequence[str]) -> str | tuple[int, ...]:
    """What ``--input-shape`` says, given once or several times: a shape, or text for more than that.

    Raises:
        InputError: it is malformed; see :func:`hwprune.inputs.parse_inputs`.
    """
    return spelled(parse_inputs(";".join(shapes)))


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the same keys as the flags.", callback=_load_config, is_eager=True),
]
HeadSizes = Annotated[
    bool, typer.Option("--head-sizes", help="Cut the size of attention heads as well as their number.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**32 - 1)]
Model = Annotated[
    str,
    typer.Option(help="file.py:factory, package:factory, zoo:NAME, timm:NAME, torchvision:NAME, transformers:FOLDER."),
]
Weights = Annotated[Path | None, typer.Option(help=".safetensors, or .pt that holds tensors only.")]
DATA = "ImageFolder directory, .parquet, .npz, digits, or file.py:factory."
INPUTS = (
    "Shape of the input, batch first: 1,3,224,224. Several, by the names of forward's arguments, with types and "
    "bounds: 'ids=1,128:int64<30522;mask=1,128:int64', or the option once for each."
)
InputShape = Annotated[list[str], typer.Option(help=INPUTS)]
InputShapeOfModel = Annotated[list[str] | None, typer.Option(help=f"With --model. {INPUTS}")]
TargetName = Annotated[str, typer.Option("--target", help="A known target (see hwprune targets) or a TOML file.")]
Threads = Annotated[int | None, typer.Option(help="Threads; overrides the target's.", min=1)]
Precision = Annotated[str | None, typer.Option(help="Precision; overrides the target's.")]
Batch = Annotated[int | None, typer.Option(help="Batch size; overrides the target's.", min=1)]
CalibrationSamples = Annotated[
    int, typer.Option(help="Samples of the training set that int8 and fp16 are calibrated on.", min=1)
]
MaxDegradation = Annotated[
    float | None,
    typer.Option(help="Most that the metric may lose, such as 0.01 of accuracy; exit status 1 beyond. int8: 0.01."),
]
PercentMaxDegradation = Annotated[float | None, typer.Option(help="The same in per cent of the model's metric.")]
