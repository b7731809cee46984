"""Encoded images and labels in one Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hwprune.errors import DataError
from hwprune.training.data import Data
from hwprune.training.images import ImageDataset, Preprocessing, open_encoded
from hwprune.training.split import stratified_split

_COLUMNS = "it needs a column 'image' (encoded bytes) and a column 'label' (class index, an integer from 0)"


class Rows:
    """Encoded images in a column.

    Args:
        column: pyarrow column of bytes, or of structs with a field ``bytes`` (the layout of Hugging Face).
        source: the file, for messages.
    """

    def __init__(self, column: Any, source: Path) -> None:
        self._column, self._source = column, source

    def open(self, index: int) -> Image.Image:
        """Open the encoded image.

        Raises:
            ValueError: there is none in this row.
        """
        content = self._column[index].as_py()
        if isinstance(content, dict):
            content = content.get("bytes")
        if not isinstance(content, bytes):
            raise ValueError("there are no bytes")
        return open_encoded(content)

    def name(self, index: int) -> str:
        """File and row."""
        return f"{self._source}, row {index}"


def load_parquet(path: Path, input_shape: Sequence[int], seed: int) -> Data:
    """Read ``image`` and ``label`` and split 80 to 20.

    Raises:
        DataError: pyarrow is missing, or the file is damaged, has other columns, no rows, or labels that are no index.
    """
    table = _read(path)
    labels = _labels(table["label"], path)
    preprocessing = Preprocessing.of(input_shape)
    train, validation = stratified_split(labels, seed)
    rows = Rows(table["image"], path)
    return Data(
        train=ImageDataset(rows, labels, train, preprocessing),
        validation=ImageDataset(rows, labels, validation, preprocessing),
        classes=max(labels) + 1,
        preprocessing=preprocessing.to_dict(),
        augment=True,
    )


def _read(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path} cannot be read without pyarrow", hint="pip install 'hwprune[parquet]'") from error
    try:
        names = pyarrow.parquet.read_schema(path).names
        if not {"image", "label"} <= set(names):
            raise DataError(f"{path} has the columns {', '.join(names) or 'none'}", hint=_COLUMNS)
        return pyarrow.parquet.read_table(path, columns=["image", "label"])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {error}", hint="the file is truncated or is not Parquet; copy it again"
        ) from error


def _labels(column: Any, path: Path) -> list[int]:
    labels: list[Any] = column.to_pylist()
    if not labels:
        raise DataError(f"{path} has no rows", hint="it needs at least two per class")
    for row, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, int) or label < 0:
            raise DataError(f"{path}, row {row} has label {label!r}", hint=_COLUMNS)
    return labels
