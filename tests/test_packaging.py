"""The wheel holds the package with its data files, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = 77  # of setuptools, in pyproject.toml: the license as an SPDX expression


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that no build folder of the checkout takes part or is left behind."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip are needed to build a wheel without network")
    if int(metadata.version("setuptools").split(".")[0]) < NEEDED:
        pytest.skip(f"setuptools {metadata.version('setuptools')} is older than {NEEDED}")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("hwprune", "tests", "docs", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(output), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = output.iterdir()
    return zipfile.ZipFile(path)


def source_files() -> set[str]:
    files = (path for path in (ROOT / "hwprune").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == source_files()
    assert {"hwprune/py.typed", "hwprune/report/report.html.j2", "hwprune/device_runner.py"} <= names


def test_what_the_wheel_says_of_itself(wheel: zipfile.ZipFile) -> None:
    import hwprune

    files = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    said = Parser().parsestr(wheel.read(files["METADATA"]).decode())
    assert (said["Name"], said["Version"]) == ("hwprune", hwprune.__version__)
    assert said["License-Expression"] == "Apache-2.0"
    assert "licenses/LICENSE" in files
    assert "hwprune = hwprune.cli:main" in wheel.read(files["entry_points.txt"]).decode()
