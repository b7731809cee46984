"""Importing hwprune costs nothing, and gives every name it promises."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys

import pytest

import hwprune

HEAVY = {
    *("torch", "numpy", "pydantic", "onnx", "onnxruntime", "onnxscript", "lightning_fabric", "torchmetrics"),
    *("safetensors", "sklearn", "scipy", "matplotlib", "PIL", "jinja2", "pyarrow"),
}
ROOMS = [
    *("budget", "cli", "compression", "deploy", "latency", "network"),
    *("pruning", "regrow", "report", "saliency", "targets", "training"),
]
VERBS = ("demo", "targets", "inspect", "profile", "predict", "compress", "export", "bench", "verify", "report")
LOADED = """
import json, sys
{code}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded(code: str) -> set[str]:
    command = [sys.executable, "-c", LOADED.format(code=code)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_importing_loads_nothing_heavy() -> None:
    modules = loaded("import hwprune; dir(hwprune); import hwprune.errors, hwprune.files, hwprune.device_runner")
    assert "hwprune" in modules
    assert not modules & HEAVY


def test_help_loads_nothing_heavy() -> None:
    modules = loaded("from hwprune.cli import main; assert main(['--help']) == main([]) == main(['--version']) == 0")
    assert "typer" in modules
    assert not modules & HEAVY


def test_help_on_a_verb_and_slips_of_the_hand_load_nothing_heavy() -> None:
    """Whoever waits for torch waits for a result. (pydantic is typer's own way to read flags.)"""
    slips = ["compres", "compress --epocs 3", "compress --model m.py:f --output run --input-shape 1"]
    lines = [line.split() for line in [*(f"{verb} --help" for verb in VERBS), *slips]]
    modules = loaded(f"from hwprune.cli import main\nfor line in {lines!r}: assert main(line) in (0, 2)")
    assert not modules & (HEAVY - {"pydantic"})


def test_rooms_without_torch() -> None:
    rooms = ("hwprune.budget", "hwprune.targets", "hwprune.latency", "hwprune.report")
    assert "torch" not in loaded(f"import {', '.join(rooms)}")


def test_public_names_are_sorted_and_complete() -> None:
    assert hwprune.__all__ == sorted(hwprune.__all__)
    # what type checkers see is what is there
    tree = ast.parse(inspect.getsource(hwprune))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(hwprune.__all__)
    assert set(dir(hwprune)) == set(hwprune.__all__)


@pytest.mark.parametrize("name", hwprune.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(hwprune, name)
    assert inspect.getdoc(thing)
    assert getattr(importlib.import_module(f"hwprune.{hwprune._HOMES[name]}"), name) is thing


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        hwprune.prune  # noqa: B018


@pytest.mark.parametrize(
    "room",
    [
        "budget",
        "cli",
        "compression",
        "deploy",
        "latency",
        "network",
        "pruning",
        "regrow",
        "report",
        "saliency",
        "targets",
        "training",
    ],
)
def test_a_room_s_names_are_sorted_and_there(room: str) -> None:
    module = importlib.import_module(f"hwprune.{room}")
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
