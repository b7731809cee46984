"""Models that libraries bring along, by name; nothing is downloaded, and no code that comes with a model is run."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.errors import ModelError, first_line
from hwprune.network.zoo import ZOO

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def from_zoo(name: str) -> nn.Module:
    """One of the small networks that hwprune brings along.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in ZOO:
        raise ModelError(f"the zoo has no {name!r}", hint=f"there is: {', '.join(sorted(ZOO))}")
    return ZOO[name]()


def from_timm(name: str) -> Any:
    """A model of timm, with random weights.

    Raises:
        ModelError: timm is not installed, or has none of that name.
    """
    timm = _library("timm")
    if name not in timm.list_models():
        raise ModelError(f"timm has no model {name!r}", hint=nearest(name, timm.list_models()))
    return timm.create_model(name, pretrained=False)


def from_torchvision(name: str) -> Any:
    """A model of torchvision, of any task, with random weights.

    Raises:
        ModelError: torchvision is not installed, or has none of that name.
    """
    models = _library("torchvision").models
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}", hint=nearest(name, models.list_models()))
    builder = models.get_model_builder(name)
    # What is not said of a backbone's weights is downloaded.
    offered = ("weights", "weights_backbone")
    return builder(**{name: None for name in offered if name in inspect.signature(builder).parameters})


def from_transformers(folder: str) -> Any:
    """A model that transformers saved: of the class that its ``config.json`` names, else what AutoModel makes of it.

    Weights are read from safetensors only, and are random if there are none. It keeps no cache of keys and values: an
    engine is called once for an answer.

    Raises:
        ModelError: transformers is not installed, the folder holds no configuration, or its weights do not fit or
            would run code when read.
    """
    transformers, path = _library("transformers"), Path(folder)
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{folder} is no folder with a config.json", hint="give what save_pretrained wrote; nothing is downloaded"
        )
    try:
        return _of_transformers(transformers, path)
    except ModelError:
        raise
    except Exception as cause:  # transformers has a class per cause
        raise ModelError(
            f"transformers cannot make the model in {folder}: {type(cause).__name__}: {first_line(cause)}",
            hint="it has to be of a kind that transformers brings along: code beside the weights is not run",
        ) from cause


def _of_transformers(transformers: Any, path: Path) -> Any:
    local = {"local_files_only": True, "trust_remote_code": False}
    # Attention is said outright: a configuration may name one that would be downloaded.
    config = transformers.AutoConfig.from_pretrained(path, attn_implementation="eager", **local)
    config.use_cache = False
    kind: Any = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    if not any(path.glob("*.safetensors")):
        _check_not_pickled(path)
        return kind(config) if known else transformers.AutoModel.from_config(config)
    loader = kind if known else transformers.AutoModel
    model, report = loader.from_pretrained(path, config=config, use_safetensors=True, output_loading_info=True, **local)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights in {path} lack {len(missing)} that {type(model).__name__} has: {', '.join(missing[:5])}",
            hint="name the class that they were saved from in config.json, as architectures",
        )
    return model


def _check_not_pickled(path: Path) -> None:
    pickled = [name for name in _PICKLED if (path / name).exists()]
    if pickled:
        raise ModelError(
            f"the weights in {path} are in {pickled[0]}, which may run code when read; it was not read",
            hint="save them as safetensors where you trust them: model.save_pretrained(FOLDER)",
        )


SHELVES: dict[str, Callable[[str], Any]] = {
    "zoo": from_zoo,
    "timm": from_timm,
    "torchvision": from_torchvision,
    "transformers": from_transformers,
}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise ModelError(f"{name} cannot be imported ({cause})", hint=f"pip install {name}") from cause
    except Exception as cause:  # built for another torch, it fails in any way it likes
        raise ModelError(
            f"{name} cannot be imported ({type(cause).__name__}: {cause})",
            hint=f"install a version of {name} that fits torch {torch.__version__}",
        ) from cause


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the names that are nearest to one that is not known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is: {', '.join(known[:20]) or 'nothing'}"
