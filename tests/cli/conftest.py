from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from .workshop import equip


@pytest.fixture(scope="session")
def equipped(tmp_path_factory: pytest.TempPathFactory, made_up_device: Callable[[], Any]) -> Path:
    folder = tmp_path_factory.mktemp("workshop")
    with chdir(folder), made_up_device():
        equip(folder)
    return folder


@pytest.fixture
def workshop(equipped: Path, tmp_path: Path, on_made_up_device: None) -> Iterator[Path]:
    """A folder of one's own, the current one, with everything in it; the clock is made up."""
    folder = tmp_path / "workshop"
    shutil.copytree(equipped, folder)
    with chdir(folder):
        yield folder
