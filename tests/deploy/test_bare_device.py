"""A bundle where there is nothing but Python, numpy and the runtime: in a virtual environment made for it."""

import json
import os
import subprocess
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from hwprune.deploy import verify, write_bundle
from hwprune.targets import load_target
from hwprune.training.images import Preprocessing

ABSENT = ("torch", "hwprune", "onnx", "PIL", "cryptography", "scipy")


def needed(name, found=None):
    """A package and those that it cannot do without."""
    found = {} if found is None else found
    if name not in found:
        found[name] = metadata.distribution(name)
        for requirement in map(Requirement, found[name].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment that sees numpy and onnxruntime, and nothing else."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    for distribution in needed("onnxruntime").values():
        for top in {file.parts[0] for file in distribution.files if not file.parts[0].startswith((".", "__"))}:
            (Path(purelib) / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


@pytest.fixture
def device(python, bundle):
    def call(*arguments, script=bundle.path / "run.py"):
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        command = [str(python), str(script), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=240, cwd="/", env=environment, check=False
        )

    return call


@pytest.fixture
def bundle(networks, exported, images, tmp_path):
    preprocessing = {**Preprocessing.of((2, 3, 16, 16)).to_dict(), "class_names": [f"kind {i}" for i in range(10)]}
    given = {"engine": exported["Residual"], "model": networks["Residual"], "example": images}
    target, manifest = load_target("local-onnxruntime"), {"preprocessing": preprocessing}
    return write_bundle(tmp_path / "bundle", target=target, manifest=manifest, **given)


def test_nothing_else_is_there(device, tmp_path):
    code = "import importlib.util as u, numpy, onnxruntime\n"
    code += f"print([name for name in {ABSENT!r} if u.find_spec(name)])"
    (tmp_path / "look.py").write_text(code)
    done = device(script=tmp_path / "look.py")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_all_verbs(device, bundle, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    before = sorted(path.name for path in bundle.path.iterdir())
    for arguments, lines in (
        (["info"], ["ok     hashes: 10 files unchanged", "engine: model.onnx, ", "classes: kind 0, kind 1, "]),
        (["infer", tmp_path / "pixels.npy"], [f"{tmp_path / 'pixels.npy'}[4]: class ", " kind ", ", score 0."]),
        (["verify", "--no-latency"], ["ok     hashes: ", "ok     golden: relative L2 error "]),
        (["--no-latency"], ["ok     golden: relative L2 error "]),
    ):
        plain, document = device(*arguments), device(*arguments, "--json")
        assert (plain.returncode, plain.stderr, document.returncode, document.stderr) == (0, "", 0, "")
        assert json.loads(document.stdout)["ok"]
        assert all(line in plain.stdout for line in lines)
    assert sorted(path.name for path in bundle.path.iterdir()) == before
    assert verify(bundle.path, latency=False)["ok"]


def test_bench(device):
    done = device("bench", "--rounds", "5", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1), done.stderr
    if not report["ok"]:
        pytest.skip(report["detail"])  # too busy
    took = report["latency_ms"]
    assert 0 < took["min_ms"] <= took["low_ms"] <= took["p50_ms"] <= took["high_ms"]
    assert {"contention", "rounds", "clock", "device", "recorded_ms", "differing"} <= set(report)


def test_images_without_pillow_are_refused_in_words(device, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8")
    done = device("infer", tmp_path / "x.jpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs Pillow, which is not installed" in done.stderr


def test_usage(device):
    assert device("--help").stdout.startswith("usage: run.py")
    assert device("infer").returncode == 2
    assert device("verify", "/nowhere").returncode == 2
