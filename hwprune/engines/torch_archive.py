"""Archives of ``torch.export``, opened only if they hold numbers and a graph of known operators, no code.

``torch.export.load`` unpickles what an archive says is pickled and evaluates the expressions in it; so an archive that
has either is refused before that.
"""

from __future__ import annotations

import importlib
import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput
else:
    from device_runner import BadInput  # beside it on a device

_OPERATORS = ("torch.ops.aten.", "_operator.getitem")
_EVALUATED = ("expr_str", "guards_code", "range_constraints")  # of dynamic shapes


def load_program(content: bytes) -> Any:
    """Open an archive.

    Raises:
        BadInput: it is none, or holds more than numbers and a graph of ATen operators on fixed shapes.
    """
    torch = importlib.import_module("torch")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check(archive, torch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own format
            return torch.export.load(io.BytesIO(content))
    except BadInput:
        raise
    except Exception as error:  # zipfile, json and torch each have their own
        raise BadInput(f"torch cannot open the model: {type(error).__name__}: {error}") from error


def _check(archive: zipfile.ZipFile, torch: Any) -> None:
    """Refuse whatever ``torch.export.load`` would execute."""
    names = {name.partition("/")[2] for name in archive.namelist()}
    root = archive.namelist()[0].partition("/")[0]
    settings = {f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants")}
    fixed = {"models/model.json", "data/sample_inputs/model.pt", *settings}
    if not fixed <= names or any(name.startswith(("models/", "data/sample_inputs/")) for name in names - fixed):
        raise BadInput("this is no archive of torch.export with one program")
    if any(name.startswith(("data/", "data/aotinductor/")) and not _expected(name, fixed) for name in names):
        raise BadInput("the archive holds files that are neither weights nor constants")
    for name in settings:
        for weight in json.loads(archive.read(f"{root}/{name}"))["config"].values():
            if weight["use_pickle"] is not False or not weight["path_name"].startswith(("weight_", "tensor_")):
                raise BadInput(
                    "the archive holds a pickled object, which could run code; only plain tensors are opened"
                )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(io.BytesIO(archive.read(f"{root}/data/sample_inputs/model.pt")), weights_only=True)
    for one in _objects(json.loads(archive.read(f"{root}/models/model.json"))):
        if any(one.get(key) for key in _EVALUATED):
            raise BadInput(
                "the archive has dynamic shapes, whose expressions could run code; export it with fixed ones"
            )
        if "inputs" in one and "target" in one and not str(one["target"]).startswith(_OPERATORS):
            raise BadInput(f"the archive calls {one['target']!r}, which is no ATen operator")


def _expected(name: str, fixed: set[str]) -> bool:
    return name in fixed or name.startswith(("data/weights/weight_", "data/constants/tensor_"))


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
