"""A model by name, its weights from a file: nothing in a weight file is ever executed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hwprune.errors import InputError, ModelError
from hwprune.network.shelves import SHELVES, nearest
from hwprune.network.wrappers import unwrapped

_FORMS = "path/to/file.py:factory, package.module:factory, zoo:NAME, timm:NAME, torchvision:NAME or transformers:FOLDER"
_NESTING = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")


def load_model(
    spec: str | nn.Module | Callable[[], nn.Module], *, say: Callable[[str], None] | None = None
) -> nn.Module:
    """Make the model that ``spec`` names, without what it may be wrapped in (:func:`~.wrappers.unwrapped`).

    Args:
        spec: ``path/to/file.py:factory``, ``package.module:factory``, ``zoo:NAME``, ``timm:NAME``,
            ``torchvision:NAME`` (the latter two with random weights), ``transformers:FOLDER`` (with the weights in
            it, if there are any), a function without arguments, or a module.
        say: told what was taken off; without it, a warning tells.

    Raises:
        ModelError: unknown, cannot be imported, or does not give a ``torch.nn.Module``.
    """
    return unwrapped(_loaded(spec), say)


def _loaded(spec: str | nn.Module | Callable[[], nn.Module]) -> nn.Module:
    if isinstance(spec, nn.Module):
        return spec
    if not isinstance(spec, str):
        return _call(spec, getattr(spec, "__qualname__", repr(spec)))
    source, _, name = spec.partition(":")
    if source in SHELVES:
        return _call(lambda: SHELVES[source](name), spec)
    with importable(spec):
        return _call(load_object(spec), spec)


def load_object(spec: str, *, error: type[InputError] = ModelError, forms: str = _FORMS) -> Any:
    """Import what ``file.py:name`` or ``package.module:name`` names.

    Args:
        spec: a Python file or a module, a colon, a name in it.
        error: class of the error to raise.
        forms: what the hint lists as allowed.

    Raises:
        InputError: (of class ``error``) no such file, module or name, or importing it failed.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise error(f"{spec!r} names nothing that can be loaded", hint=f"give {forms}")
    module = load_module(source, error=error, forms=forms)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{source} has no {name!r}", hint=nearest(name, public))
    return getattr(module, name)


def load_module(source: str, *, error: type[InputError] = ModelError, forms: str = _FORMS) -> ModuleType:
    """Import a Python file or a module by name.

    Args:
        source: ``path/to/file.py`` or ``package.module``.
        error: class of the error to raise.
        forms: what the hint lists as allowed.

    Raises:
        InputError: (of class ``error``) it does not exist, or running it failed.
    """
    if source.endswith(".py") and not Path(source).is_file():
        raise error(f"no such file: {source}", hint=f"give {forms}")
    try:
        with importable(source):
            return _run_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except ModuleNotFoundError as cause:
        if source.endswith(".py") or not source.startswith(cause.name or "?"):
            raise _failed(f"importing {source}", cause, error) from cause
        raise error(f"there is no Python module {source!r} ({cause})", hint=f"give {forms}") from cause
    except InputError:
        raise
    except (Exception, SystemExit) as cause:
        raise _failed(f"importing {source}", cause, error) from cause


@contextmanager
def importable(spec: str) -> Iterator[None]:
    """Let a user's file import its neighbours, as it could if it were run as a script.

    The folder comes first on ``sys.path`` only for as long as the user's code is loaded; afterwards it is last
    (for imports inside functions), so that a neighbour named like a library does not hide the library from us.
    """
    path = spec.rpartition(":")[0] if not spec.endswith(".py") else spec
    folder = str(Path(path).resolve().parent) if path.endswith(".py") else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have rebuilt the list
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _run_file(path: Path) -> ModuleType:
    path = path.resolve()
    # One module per path: a second load gives the same classes, and DataLoader workers can find them by name.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _failed(doing: str, cause: BaseException, error: type[InputError] = ModelError) -> InputError:
    return error(f"{doing} failed: {type(cause).__name__}: {cause}", hint="the error is in that code; mend it there")


def _call(factory: Any, name: str) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"{name} is a {type(factory).__name__}", hint="name a function that returns a torch.nn.Module")
    try:
        model = factory()
    except InputError:
        raise
    except (Exception, SystemExit) as cause:
        raise _failed(f"calling {name}()", cause) from cause
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name} returned a {type(model).__name__}",
            hint="called without arguments it has to return a torch.nn.Module",
        )
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights into ``model``; if anything does not fit, the model stays as it was.

    Reads ``.safetensors``, and ``.pt``/``.pth``/``.bin``/``.ckpt`` with ``weights_only=True`` only. Wrappings of
    training scripts are taken off: a ``state_dict``/``model_state_dict``/``model`` key around the tensors, a
    ``module.`` (DataParallel) or ``_orig_mod.`` (torch.compile) prefix before every name. Only
    ``num_batches_tracked`` and second names of tied tensors may be missing.

    Raises:
        ModelError: missing, truncated, pickled code, or names and shapes that do not fit the model.
    """
    path = Path(path)
    own = model.state_dict()
    weights = _without_prefix(_read_weights(path), own)
    faults = _misfits(own, weights)
    if faults:
        raise ModelError(
            f"the weights in {path} do not fit the model: {'; '.join(faults)}",
            hint="give the weights of exactly this architecture (same class count, same widths)",
        )
    model.load_state_dict(weights, strict=False)


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    given = {own[name].data_ptr() for name in weights if name in own}
    missing = [
        name
        for name, tensor in own.items()
        if name not in weights and not name.endswith("num_batches_tracked") and tensor.data_ptr() not in given
    ]
    shapes = [
        f"{name} is {_shape(weights[name])} in the file and {_shape(tensor)} in the model"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    unexpected = [name for name in weights if name not in own]
    found = {"missing": missing, "not in the model": unexpected, "of another shape": shapes}
    return [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"no weight file at {path}", hint="give a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as cause:
            raise _damaged(path, str(cause)) from cause
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _tensors(_read_pickle(path), path)
    raise ModelError(
        f"{path} has the suffix {path.suffix!r}", hint="weights are read from .safetensors, .pt, .pth, .bin or .ckpt"
    )


def _damaged(path: Path, cause: str) -> ModelError:
    return ModelError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as weights: {cause}; nothing in it was run",
        hint="it is truncated, or was not written by torch.save(model.state_dict(), …) or safetensors: copy it again",
    )


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns about archives and pickles that it then refuses to read; our error says enough
            warnings.filterwarnings("ignore", message=".*(TorchScript archive|pickle protocol)", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(cause))
        if not forbidden:
            line = re.search(r"Unsupported .*", str(cause))
            raise _damaged(path, line[0] if line else str(cause)) from cause
        raise ModelError(
            f"{path} holds more than tensors: reading it would run {forbidden[1]}; nothing was run",
            hint="save only the weights, on a machine where you trust the file: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        ) from cause
    except Exception as cause:  # a damaged pickle fails in any way it likes
        raise _damaged(path, str(cause) or type(cause).__name__) from cause


def _tensors(document: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(document, Mapping):
        for key in _NESTING:
            if isinstance(document.get(key), Mapping):
                document = document[key]
    if not isinstance(document, Mapping):
        raise ModelError(f"{path} holds a {type(document).__name__}", hint="save model.state_dict()")
    others = [
        str(name) for name, value in document.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ModelError(
            f"{path} holds entries that are not tensors: {_some(others)}",
            hint="save model.state_dict() alone, or under the key 'state_dict'",
        )
    return {str(name): tensor for name, tensor in document.items()}


def _without_prefix(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPERS * 2:
        if weights.keys().isdisjoint(own) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
