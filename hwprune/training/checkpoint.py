"""Checkpoints without pickle: a tree of tensors and plain values in one safetensors file.

The tensors lie in the file as safetensors; the tree around them is JSON in its metadata. Dictionary keys may be
strings or integers (optimizers count their parameters), so a dictionary is a list of pairs there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.files import write_atomic

SCHEMA_VERSION = 1
_HINT = "the file is damaged or was not written by hwprune; take an earlier checkpoint or start again"


def save_checkpoint(path: Path, tree: Any) -> None:
    """Write a tree; a reader sees the whole file or the one before it.

    Args:
        path: file to write, usually ``*.safetensors``.
        tree: nested dicts, lists and tuples of tensors, numpy arrays, strings, numbers, booleans and None.

    Raises:
        TypeError: the tree holds something else.
        OSError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps({"schema_version": SCHEMA_VERSION, "tree": _pack(tree, tensors, "tree")}, allow_nan=False)
    write_atomic(path, safetensors.torch.save(tensors, metadata={"hwprune": skeleton}))


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's ``state_dict`` as plain safetensors (:func:`hwprune.network.loading.load_weights` reads it).

    Raises:
        OSError: it cannot be written.
    """
    # cloned: safetensors refuses tensors that share memory, as tied weights do
    write_atomic(path, safetensors.torch.save({name: _own(value) for name, value in model.state_dict().items()}))


def load_checkpoint(path: Path) -> Any:
    """Read what :func:`save_checkpoint` wrote; tensors come back on the CPU.

    Raises:
        InputError: missing, truncated, or not a checkpoint.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            document = json.loads((file.metadata() or {})["hwprune"])
            version = document["schema_version"]
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"checkpoint {path} has schema_version {version!r}, this hwprune reads {SCHEMA_VERSION}",
                    hint="continue with the hwprune version that wrote it",
                )
            # clone: what safetensors returns may still be mapped to the file
            return _unpack(document["tree"], {name: file.get_tensor(name).clone() for name in list(file.keys())})
    except FileNotFoundError as error:
        raise InputError(f"no checkpoint at {path}", hint="give the folder of a run that was started") from error
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"checkpoint {path} cannot be read: {type(error).__name__}: {error}", hint=_HINT) from error


def _pack(node: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if node is None or isinstance(node, (bool, int, str)):
        return node
    if isinstance(node, float):
        return node if math.isfinite(node) else {"float": str(node)}
    if isinstance(node, (Tensor, np.ndarray)):
        kind = "tensor" if isinstance(node, Tensor) else "array"
        name = str(len(tensors))
        tensors[name] = _own(torch.as_tensor(node))
        return {kind: name}
    if isinstance(node, dict):
        if not all(type(key) in (str, int) for key in node):
            raise TypeError(f"{place} has a key that is neither str nor int")
        return {"dict": [[key, _pack(value, tensors, f"{place}[{key!r}]")] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [_pack(value, tensors, f"{place}[{i}]") for i, value in enumerate(node)]}
    raise TypeError(f"{place} is a {type(node).__name__}; a checkpoint holds tensors, arrays and plain values")


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        return tensors[value].numpy()
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in value}
    if kind == "list":
        return [_unpack(item, tensors) for item in value]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in value)
    if kind == "float":
        return float(value)
    raise ValueError(f"unknown kind {kind!r}")
