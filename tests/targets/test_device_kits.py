"""The kits under export/devices can be used as they are, and say what has never run."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hwprune.targets import load_target, runtime_for
from hwprune.targets.address import Address

DEVICES = Path(__file__).parents[2] / "export" / "devices"
KITS = sorted(path.name for path in DEVICES.iterdir())


def test_there_is_one_for_each_kind_of_device() -> None:
    assert {"data-centre-gpu", "intel-nuc", "jetson-orin", "raspberry-pi-5"} <= set(KITS)


@pytest.mark.parametrize("name", KITS)
def test_a_target(name: str) -> None:
    target = load_target(DEVICES / name / "target.toml")
    assert target.name == name
    assert target.precision in runtime_for(target).precisions
    assert Address.parse(target.connection).host


@pytest.mark.parametrize("name", KITS)
def test_requirements(name: str) -> None:
    lines = (DEVICES / name / "requirements.txt").read_text().splitlines()
    needed = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    assert "numpy" in needed
    assert "torch" not in needed


@pytest.mark.parametrize("name", KITS)
def test_the_readme_says_what_has_not_run_and_how_to(name: str) -> None:
    text = (DEVICES / name / "README.md").read_text()
    assert "**None of this has run on " in text
    for command in (
        f"--output {name}.json",
        "--pack kit.tar",
        "worker.py .",
        "--unpack results.jsonl",
        "-r requirements.txt",
    ):
        assert command in text
