"""The guides do what they say: every block of both is run, in order; links lead somewhere; the example works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = ("your-own-model.md", "your-own-loop.md")
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, file name and content of every fenced block."""
    return [(language, file or "", content) for language, file, content in BLOCK.findall(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in links if not (page.parent / link.split("#")[0]).exists()] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_every_block_of_a_guide_is_of_a_kind_that_is_run(guide: str) -> None:
    page = ROOT / "docs/guides" / guide
    assert page.read_text().count("```") == 2 * len(blocks(page))
    assert {language for language, _, _ in blocks(page)} <= {"python", "sh"}


def photos(folder: Path) -> None:
    """Two classes that can be told apart, in ImageFolder layout."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 4)):
        for name, light in (("cat", 60), ("dog", 160)):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(light, 30, (48, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i:03}.png")


def run_python(content: str) -> None:
    exec(compile(content, "guide", "exec"), {"__name__": "guide"})


def run_shell(content: str, hwprune: Any) -> None:
    for line in content.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        if program == "hwprune":
            answer = hwprune(shlex.join(words))
            assert answer.status == 0, f"{line}\n{answer.err}"
        else:
            # the clock of that process is the real one, which a busy machine may refuse: the rest is checked
            assert program == "python", line
            command = [sys.executable, *words, "--no-latency"]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, from which modules can be imported as in a user's session."""
    modules = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    with chdir(tmp_path):
        yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_guides_from_the_first_block_to_the_last(elsewhere: Path, hwprune: Any, on_made_up_device: None) -> None:
    import safetensors.torch
    import torch

    photos(elsewhere / "photos")
    torch.manual_seed(0)
    for guide in GUIDES:
        for language, file, content in blocks(ROOT / "docs/guides" / guide):
            if language == "sh":
                run_shell(content, hwprune)
            elif not file:
                run_python(content)
            else:
                (elsewhere / file).write_text(content)
                space: dict[str, Any] = {}
                exec(content, space)
                safetensors.torch.save_file(space["build"]().state_dict(), elsewhere / "weights.safetensors")
    for run in ("run", "run-from-python"):
        assert (elsewhere / run / "bundle/run.py").is_file()
        assert (elsewhere / run / "report.html").is_file()


def example_command() -> str:
    """The command that the example's own text gives."""
    text = (ROOT / "docs/examples/segmentation.py").read_text()
    (command,) = re.findall(r"^    hwprune (compress .*?)\n\"\"\"", text, re.MULTILINE | re.DOTALL)
    return " ".join(command.replace("\\\n", " ").split())


def test_the_segmentation_example(elsewhere: Path, hwprune: Any, on_made_up_device: None) -> None:
    """Its own command, made fast: one shot, one minibatch, a budget that needs no table."""
    shutil.copy(ROOT / "docs/examples/segmentation.py", elsewhere)
    quick = "--method joint-oneshot --saliency-batches 1 --batch-size 8 --epochs 0 --channel-step 8"
    command = example_command().replace("--latency", "--macs")
    answer = hwprune(f"{command} {quick}")
    assert answer.status == 0, answer.err
    assert "IoU (exported engine)" in answer.out
    assert hwprune("verify run/bundle --no-latency").status == 0
