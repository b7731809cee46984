"""Images in folders that are named like their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hwprune.errors import DataError
from hwprune.training.data import Data
from hwprune.training.images import ImageDataset, Preprocessing, open_encoded
from hwprune.training.split import stratified_split

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_LAYOUT = "put images in one folder per class: DIR/class/*.png, or DIR/train/class/*.png and DIR/val/class/*.png"


class Files:
    """Images in files.

    Args:
        paths: one per image.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def open(self, index: int) -> Image.Image:
        """Open the file; the caller closes it."""
        return open_encoded(self._paths[index])

    def name(self, index: int) -> str:
        """The path."""
        return str(self._paths[index])


def load_folder(path: Path, input_shape: Sequence[int], seed: int) -> Data:
    """Read ``train/`` and ``val/`` (or ``validation/``) if they are there, else split what is in ``path``.

    Raises:
        DataError: no class folder, a class without images, a validation class that is not trained, an unreadable image.
    """
    preprocessing = Preprocessing.of(input_shape)
    held_back = [folder for folder in (path / "val", path / "validation") if folder.is_dir()]
    if (path / "train").is_dir() != bool(held_back) or len(held_back) > 1:
        raise DataError(f"{path} has not one training and one validation folder", hint=_LAYOUT)
    if not held_back:
        names, paths, labels = _scan(path)
        train, validation = stratified_split(labels, seed)
        return _data(Files(paths), labels, (train, validation), names, preprocessing)
    names, paths, labels = _scan(path / "train")
    other_names, other_paths, other_labels = _scan(held_back[0])
    strangers = [name for name in other_names if name not in names]
    if strangers:
        raise DataError(
            f"{held_back[0]} has the class {strangers[0]!r}, which {path / 'train'} has not",
            hint="both folders need the same classes",
        )
    renumbered = [names.index(other_names[label]) for label in other_labels]
    chosen = (range(len(paths)), range(len(paths), len(paths) + len(other_paths)))
    return _data(Files(paths + other_paths), labels + renumbered, chosen, names, preprocessing)


def _data(
    files: Files,
    labels: Sequence[int],
    chosen: tuple[Sequence[int], Sequence[int]],
    names: Sequence[str],
    preprocessing: Preprocessing,
) -> Data:
    return Data(
        train=ImageDataset(files, labels, chosen[0], preprocessing),
        validation=ImageDataset(files, labels, chosen[1], preprocessing),
        classes=len(names),
        preprocessing={**preprocessing.to_dict(), "class_names": list(names)},
        augment=True,
    )


def _scan(root: Path) -> tuple[list[str], list[Path], list[int]]:
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{root} has no class folder", hint=_LAYOUT)
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = sorted(entry for entry in folder.rglob("*") if entry.suffix.lower() in _SUFFIXES and entry.is_file())
        if not found:
            raise DataError(f"{folder} has no image", hint=f"images end in {', '.join(sorted(_SUFFIXES))}; {_LAYOUT}")
        paths += found
        labels += [label] * len(found)
    return [folder.name for folder in classes], paths, labels
