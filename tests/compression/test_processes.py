"""Several processes compress as one does, end together, and go on together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwprune.compression import compress, read_config

from ..together import Ended, together
from . import fakes

HERE = Path(__file__).parent
WORKER = HERE / "together_worker.py"
SETTINGS = {
    "model": f"{HERE / 'plain.py'}:build",
    "data": f"{HERE / 'plain.py'}:data",
    "input-shape": "1,1,6,6",
    "macs": "0.5x",
    "channel-step": "4",
    "prune-steps": "4",
    "prune-epochs": "2",
    "epochs": "2",
    "batch-size": "13",
    "learning-rate": "0.02",
    "distill": "0.3",
    "accelerator": "cpu",
}


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))  # plain.py imports tiny.py


def words(output: Path, **changes: str) -> list[str]:
    settings = {**SETTINGS, **changes, "output": str(output)}
    return ["compress", *(word for name, value in settings.items() for word in (f"--{name}", value)), "--json"]


def run(exports: Path, *line: str, **environment: str) -> list[Ended]:
    return together(2, WORKER, exports, *line, **environment)


def alone(output: Path, **changes: str) -> None:
    settings = {name.replace("-", "_"): value for name, value in {**SETTINGS, **changes}.items()}
    settings["input_shape"] = (1, 1, 6, 6)
    compress(read_config({**settings, "output": output}))


def losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if "loss" in event]


@pytest.mark.parametrize("changes", [{}, {"method": "joint-oneshot"}, {"regrow": "iee", "prune-steps": "1"}])
def test_two_processes_find_the_plan_of_one(changes: Any, tmp_path: Path, exports: Path, device: Any) -> None:
    ended = run(exports, *words(tmp_path / "two", **changes))
    assert [one.status for one in ended] == [0, 0], ended
    assert json.loads(ended[0].out)["budget_met"] is True
    assert (ended[1].out, ended[1].err) == ("", "")
    with device():
        alone(tmp_path / "one", **changes)
    two, one = (json.loads((tmp_path / name / "plan.json").read_text()) for name in ("two", "one"))
    assert (two["widths"], two["kept"], two["cuts"]) == (one["widths"], one["kept"], one["cuts"])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert fakes.half_written(tmp_path / "two") == []


def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(tmp_path: Path, exports: Path) -> None:
    """With batch norm and dropout."""
    changes = {"model": f"{HERE / 'tiny.py'}:build"}
    assert [one.status for one in run(exports, *words(tmp_path / "whole", **changes))] == [0, 0]
    killed = run(exports, *words(tmp_path / "run", **changes), FAIL="killed", FAIL_RANK="1", FAIL_AT="30")
    assert (killed[0].status, killed[1].status) == (3, -9)
    assert "error: another process of the run is gone" in killed[0].err
    assert [one.status for one in run(exports, "compress", "--output", str(tmp_path / "run"), "--resume")] == [0, 0]
    assert fakes.outcome(tmp_path / "run") == fakes.outcome(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_an_error_in_one_ends_both_and_leaves_nothing(tmp_path: Path, exports: Path) -> None:
    ended = run(exports, *words(tmp_path / "run"), FAIL="error", FAIL_RANK="1", FAIL_AT="9")
    assert [one.status for one in ended] == [2, 2]
    assert ended[1].err == "error: row 7 is damaged\n\nhint: mend it\n"
    assert "error" not in ended[0].err
    assert list(tmp_path.iterdir()) == []


def test_what_the_first_one_refuses_ends_both(tmp_path: Path, exports: Path) -> None:
    ended = run(exports, *words(tmp_path / "run", macs="0.0001x"))
    assert [one.status for one in ended] == [2, 2]
    assert ended[0].err.count("error: the budget") == 1
    assert ended[1].err == ""


def test_two_machines_by_torchrun(tmp_path: Path, exports: Path) -> None:
    """Each with a working directory of its own; the run is on the first."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", f"127.0.0.1:{_free_port()}", "--rdzv-id", "machines"]
    line = [*launch, str(WORKER), str(exports), *words(Path("run"), macs="0.8x,0.6x")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    started = [
        subprocess.Popen([sys.executable, *line], cwd=tmp_path / name, env=environment, stdout=subprocess.PIPE)
        for name in ("one", "two")
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0]
    wrote = [name for name in ("one", "two") if (tmp_path / name / "run").exists()]
    assert len(wrote) == 1  # which machine is the first one, they settle among themselves
    document = json.loads(b"".join(said))
    assert [entry["budget_met"] for entry in document["runs"]] == [True, True]
    shutil.rmtree(tmp_path / wrote[0])


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
