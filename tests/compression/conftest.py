from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from hwprune.network import trace
from hwprune.targets import Target, load_target

from ..pruning.made_up import made_up_table
from . import fakes, tiny

Device = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def device(exports: Path) -> Device:
    @contextmanager
    def entered(measure: fakes.Clock | None = None) -> Iterator[None]:
        with ExitStack() as stack:
            for patch in fakes.made_up_device(exports, measure or fakes.clock()):
                stack.enter_context(patch)
            yield

    return entered


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made-up tables of this machine and of one that is out of reach, and that one's description."""
    folder = tmp_path_factory.mktemp("tables")
    network = trace(tiny.build(), torch.zeros(1, 1, 6, 6))
    away = Target(name="away", connection="none")
    made_up_table(network, step=4, target=load_target("local-onnxruntime")).save(folder / "here.json")
    made_up_table(network, step=4, target=away).save(folder / "away.json")
    (folder / "away.toml").write_text('name = "away"\nconnection = "none"\n')
    return {"here": folder / "here.json", "away": folder / "away.json", "away target": folder / "away.toml"}
