"""Targets that need no file, targets read from one, and the runtime that serves a target."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any

from hwprune.errors import InputError
from hwprune.targets._base import Runtime
from hwprune.targets.ncnn import Ncnn
from hwprune.targets.onnxruntime import OnnxRuntime, OnnxRuntimeCuda, OnnxRuntimeTensorRT
from hwprune.targets.openvino import OpenVino
from hwprune.targets.target import Target
from hwprune.targets.tensorrt import TensorRT
from hwprune.targets.torch import Torch, TorchCuda

_RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        *(OnnxRuntime(), OnnxRuntimeCuda(), OnnxRuntimeTensorRT()),
        *(OpenVino(), Torch(), TorchCuda(), Ncnn(), TensorRT()),
    )
}


def known_targets() -> dict[str, Target]:
    """Targets by name that need no file: this machine, once per runtime."""
    return {f"local-{runtime}": Target(name=f"local-{runtime}", runtime=runtime) for runtime in _RUNTIMES}


def load_target(
    spec: str | Path | Target, *, threads: int | None = None, precision: str | None = None, batch: int | None = None
) -> Target:
    """Find a target by name or read it from a TOML file.

    Args:
        spec: a known name, the path of a TOML file (``.toml``), or a target to adapt.
        threads: replaces the target's own, unless None.
        precision: likewise.
        batch: likewise, in samples per call.

    Raises:
        InputError: unknown name, unreadable file, or a value that no target can have.
    """
    target = spec if isinstance(spec, Target) else _find(spec)
    return dataclasses.replace(
        target,
        threads=target.threads if threads is None else threads,
        precision=target.precision if precision is None else precision,
        batch=target.batch if batch is None else batch,
    )


def _find(spec: str | Path) -> Target:
    if isinstance(spec, Path) or spec.endswith(".toml"):
        return Target.from_dict(_read_toml(Path(spec)), source=str(spec))
    known = known_targets()
    if spec in known:
        return known[spec]
    near = difflib.get_close_matches(spec, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"unknown target {spec!r}", hint=f"{guess}known targets: {', '.join(known)}; or give the path of a .toml file"
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", hint="give a TOML file that describes a target") from error


def runtime_for(target: Target) -> Runtime:
    """The runtime that serves a target.

    Raises:
        InputError: no such runtime.
    """
    if target.runtime not in _RUNTIMES:
        raise InputError(
            f"target {target.name!r} has unknown runtime {target.runtime!r}",
            hint=f"runtimes: {', '.join(_RUNTIMES)}",
        )
    return _RUNTIMES[target.runtime]
