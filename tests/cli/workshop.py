"""What a user could have lying about: models, data, weights, tables and a finished run; some of it broken."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from hwprune.cli import main

from ..budget.test_problem import DESIGN

MODELS = """
import os, signal, sys
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
    def forward(self, x):
        raise RuntimeError("broken on purpose")

def broken(): return Broken()
def nothing_to_prune(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
def text(): return "no module"
def raises(): raise KeyError("no such thing")
def needs(argument): return build()
def leaves(): sys.exit(5)
def chatty():
    print("a model that talks")
    return build()
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    return build()
"""
BOARD = 'name = "board"\nconnection = "none"\n'
MODEL = "--model models.py:build --input-shape 1,3,8,8"
QUICK = "--epochs 1 --method joint-oneshot --saliency-batches 1 --batch-size 16 --channel-step 4 --accelerator cpu"
COMPRESS = f"compress {MODEL} --data images.npz --output run {QUICK}"


PROBLEM = {**DESIGN, "costs": DESIGN["costs"][:2], "budgets": {"latency_ms": 0.35}}


class Evil:
    """Reading it would make a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.proof)!r}, 'w').close()",))


def equip(folder: Path) -> None:
    """Fill a folder; two verbs are run in it, on the device at hand."""
    (folder / "models.py").write_text(MODELS)
    (folder / "syntax.py").write_text("def build(:\n")
    (folder / "board.toml").write_text(BOARD)
    (folder / "problem.json").write_text(json.dumps(PROBLEM))
    (folder / "empty").mkdir()
    (folder / "used").mkdir()
    (folder / "used" / "notes.txt").write_text("mine")
    shutil.copytree(folder / "used", folder / "in-ort")
    random = np.random.default_rng(0)
    labels = np.tile([0, 1], 24)
    images = random.normal(size=(48, 3, 8, 8)).astype(np.float32) + labels[:, None, None, None]
    np.savez(folder / "images.npz", x=images, y=labels)
    _unreadable_images(folder / "unreadable", random)
    _weights(folder)
    _configs(folder)
    assert main(["profile", *MODEL.split(), "--points", "2", "--output", "table.json"]) == 0
    _tables(folder)
    assert main([*COMPRESS.replace("--output run", "--output finished").split(), "--macs", "0.5x"]) == 0
    shutil.copytree(folder / "finished/bundle", folder / "changed")
    with open(folder / "changed/model.onnx", "ab") as file:
        file.write(b"x")


def _unreadable_images(folder: Path, random: np.random.Generator) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            picture = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            picture.save(folder / name / f"{i}.png")
    whole = (folder / "dog/3.png").read_bytes()
    (folder / "dog/3.png").write_bytes(whole[: len(whole) // 2])


def _weights(folder: Path) -> None:
    space: dict[str, Any] = {}
    exec(MODELS, space)
    state = space["build"]().state_dict()
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pt")
    for name in ("weights.safetensors", "weights.pt"):
        content = (folder / name).read_bytes()
        (folder / f"truncated.{name}").write_bytes(content[: len(content) // 2])
    torch.save({"0.weight": Evil(folder / "proof")}, folder / "evil.pt")
    (folder / "evil2.pt").write_bytes(pickle.dumps(Evil(folder / "proof")))
    (folder / "evil.safetensors").write_bytes(pickle.dumps(Evil(folder / "proof")))


def _configs(folder: Path) -> None:
    for name, content in {
        "unknown": "epocs = 3",
        "word": 'epochs = "many"',
        "truth": "epochs = true",
        "fraction": "epochs = 1.5",
        "list": "epochs = [1, 2]",
        "table": "[epochs]\na = 1",
        "twice": "prune-steps = 1\nprune_steps = 2",
        "nested": 'config = "other.toml"',
        "toml": "epochs = ",
    }.items():
        (folder / f"{name}.toml").write_text(content)


def _tables(folder: Path) -> None:
    def changed(name: str, change: Any) -> None:
        document = json.loads((folder / "table.json").read_text())
        change(document)
        (folder / f"table.{name}.json").write_text(json.dumps(document))

    changed("device", lambda table: table["device"].update(cpu="Imaginary 9000"))
    changed("precision", lambda table: table["target"].update(precision="fp16"))
    changed("batch", lambda table: table["target"].update(batch=8))
    changed("threads", lambda table: table["target"].update(threads=3))
    changed("lacking", lambda table: table.update(entries=table["entries"][:1]))
    changed("nan", lambda table: table.update(scale=float("nan")))
    changed("unknown", lambda table: table.update(comment="hello"))
    (folder / "table.cut.json").write_text((folder / "table.json").read_text()[:500])
