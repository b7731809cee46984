"""Two processes have the masks that one has with both their batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwprune.regrow import rules

HERE = Path(__file__).parent
ALONE = (
    "import json, sys; from ddp_worker import trained, rules; print(json.dumps({n: trained(n, 0, 1) for n in rules()}))"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, HERE / "ddp_worker.py", folder], env={**environment, "RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[str]]:
    ended = subprocess.run([sys.executable, "-c", ALONE], cwd=HERE, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", rules())
def test_masks_are_the_same_after_every_step(name: str, ranks: list[dict[str, Any]], alone: Any) -> None:
    assert ranks[0]["masks"][name] == ranks[1]["masks"][name] == alone[name]
    assert len(set(alone[name])) > 3  # they change


def test_masks_that_differ_are_an_error_in_both(ranks: list[dict[str, Any]]) -> None:
    assert {rank["error"] for rank in ranks} == {"the masks of ranks [1] differ from those of rank 0"}
