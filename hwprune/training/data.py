"""A training and a validation set, from whatever the user names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hwprune.errors import DataError, InputError
from hwprune.inputs import Input, read_inputs, spelled
from hwprune.network.loading import importable, load_object

FORMS = (
    "an image folder, a .parquet or .npz file, 'digits', or path/to/file.py:factory that returns (train, validation)"
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is learnt from and what is judged by.

    Attributes:
        train: data set with a length; for classification its samples are ``(inputs, class index)``: a tensor, for a
            model with several inputs a tuple of tensors by position or a dictionary of them by name.
        validation: the same, never trained on.
        classes: number of classes, where the source says so.
        preprocessing: how raw input becomes a sample, JSON-able, for the manifest of a bundle.
        augment: whether a mirrored or shifted sample is still a valid one.
    """

    train: Dataset[Any]
    validation: Dataset[Any]
    classes: int | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    augment: bool = False


def load_data(
    spec: str | Path | tuple[Dataset[Any], Dataset[Any]], *, input_shape: str | Sequence[int], seed: int = 0
) -> Data:
    """Open a data set.

    Args:
        spec: a folder in ImageFolder layout (``class/image``, or ``train/class/image`` and ``val/class/image``), a
            ``.parquet`` file (``image``: encoded bytes, ``label``: class index), an ``.npz`` file (``x``, ``y``, or
            ``x_train``, ``y_train``, ``x_val``, ``y_val``), ``digits``, ``file.py:factory`` (called without
            arguments), or a pair (train, validation).
        input_shape: of the network, (N, C, H, W); images are brought to it. For other inputs the text that
            :func:`hwprune.inputs.parse_inputs` reads.
        seed: decides the split where the source has none.

    Raises:
        DataError: missing, empty or unreadable; names the file and row.
        InputError: images are asked for in a shape that is none.
    """
    if isinstance(spec, tuple):
        return _pair(spec, "the given data sets", read_inputs(input_shape))
    name = str(spec)
    if not name:
        raise DataError("no data set was named", hint=f"give {FORMS}")
    path = Path(spec)
    if ":" in name and not path.is_dir() and path.suffix not in (".parquet", ".npz"):
        return _from_factory(name, read_inputs(input_shape))
    return _of_one_input(path, input_shape, seed)


def _of_one_input(path: Path, input_shape: str | Sequence[int], seed: int) -> Data:
    """Files, whose samples are one tensor."""
    # imported late: each pulls in what only its own format needs
    name = str(path)
    if isinstance(input_shape, str):
        input_shape = spelled(read_inputs(input_shape))
    if isinstance(input_shape, str):
        raise DataError(
            f"{name} gives one input of float32, and --input-shape says {input_shape}",
            hint="give path/to/file.py:factory, whose samples are (tuple of tensors, or dictionary by name, label)",
        )
    if name == "digits":
        from hwprune.training.digits import load_digits

        return load_digits(input_shape, seed)
    if path.is_dir():
        from hwprune.training.folder import load_folder

        return load_folder(path, input_shape, seed)
    if path.suffix in (".parquet", ".npz") and not path.is_file():
        raise DataError(f"no such file: {path}", hint=f"give {FORMS}")
    if path.suffix == ".parquet":
        from hwprune.training.parquet import load_parquet

        return load_parquet(path, input_shape, seed)
    if path.suffix == ".npz":
        from hwprune.training.arrays import load_arrays

        return load_arrays(path, input_shape, seed)
    raise DataError(f"{name} is no data set: there is no such folder", hint=f"give {FORMS}")


def _from_factory(spec: str, inputs: Sequence[Input]) -> Data:
    factory = load_object(spec, error=DataError, forms=FORMS)
    try:
        with importable(spec):
            pair = factory()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"calling {spec}() failed: {type(error).__name__}: {error}", hint="the error is in that code; mend it there"
        ) from error
    return _pair(pair, spec, inputs)


def _pair(pair: Any, source: str, inputs: Sequence[Input]) -> Data:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError(f"{source} gave a {type(pair).__name__}", hint="give two data sets: (train, validation)")
    for dataset, part in zip(pair, ("training", "validation"), strict=True):
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"the {part} set of {source} is a {type(dataset).__name__} without length or index",
                hint="give a torch Dataset with __len__ and __getitem__",
            )
        if len(dataset) == 0:
            raise DataError(f"the {part} set of {source} is empty", hint="it needs at least one sample")
        _check_sample(dataset, f"the {part} set of {source}", inputs)
    return Data(train=pair[0], validation=pair[1], preprocessing={"kind": "user", "source": source})


def _check_sample(dataset: Any, where: str, inputs: Sequence[Input]) -> None:
    try:
        sample = dataset[0]
    except Exception as error:
        raise DataError(
            f"the first sample of {where} cannot be read: {type(error).__name__}: {error}", hint="mend the data set"
        ) from error
    given = inputs_of(sample)
    wrong = misfit(given, inputs) if isinstance(given, Tensor | Mapping | tuple | list) else None
    if wrong:
        raise DataError(
            f"samples of {where} have {wrong}",
            hint="mend them in the data set, or give the input shape that fits (batch first)",
        )


def inputs_of(sample: Any) -> Any:
    """What of a sample or batch the model is fed: all but the label."""
    return sample[0] if isinstance(sample, (tuple, list)) and sample else sample


def validation_inputs(data: Data, batch: int, samples: int) -> Iterator[Any]:
    """Inputs of the validation set in whole batches: of at most ``samples`` of its samples, but one batch at least.

    Of a validation set smaller than one batch, none.
    """
    loader: DataLoader[Any] = DataLoader(data.validation, batch_size=batch, drop_last=True)
    for item in islice(loader, max(1, samples // batch)):
        yield inputs_of(item)


def misfit(sample: Any, inputs: Sequence[Input]) -> str | None:
    """How the inputs of a sample (a tensor, several, or several by name; no batch) differ from what the network takes.

    Floating point types are not compared: what is asked for without a type fits the network's.
    """
    given: dict[str | int | None, Any]
    if isinstance(sample, Mapping):
        given = dict(sample)
    else:
        parts = [sample] if isinstance(sample, Tensor) else sample
        given = {None: parts[0]} if len(parts) == 1 else dict(enumerate(parts))
    asked: dict[str | int | None, Input]
    asked = {one.name or (place if len(inputs) > 1 else None): one for place, one in enumerate(inputs)}
    if given.keys() != asked.keys():
        return f"{_listed(list(given))}, the network takes {_listed(list(asked))}"
    for key, one in asked.items():
        tensor, name = given[key], f"{key}: " if one.name else ""
        if not isinstance(tensor, Tensor):
            return f"{name}a {type(tensor).__name__}, the network takes tensors"
        if tuple(tensor.shape) != one.shape[1:]:
            return f"{name}shape {tuple(tensor.shape)}, the network's input has {one.shape[1:]}"
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype != (one.dtype or dtype) or (key is not None and one.dtype is None and not tensor.is_floating_point()):
            return f"{name}type {dtype}, the network takes {one.dtype or 'floating point'}"
    return None


def _listed(keys: Sequence[str | int | None]) -> str:
    named = [key for key in keys if isinstance(key, str)]
    return f"inputs {', '.join(named)}" if named else f"{len(keys)} input{'s' * (len(keys) != 1)} by position"
