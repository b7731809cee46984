"""The C++ example computes what torch computed when the bundle was written; needs g++ and ONNX Runtime's headers.

``HWPRUNE_ONNXRUNTIME_INCLUDE`` names the folder that holds ``onnxruntime_c_api.h``, where it is not the system's; the
library is that of the Python package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from hwprune.deploy import Bundle, export_onnx, write_bundle
from hwprune.targets import load_target

from .conftest import Residual

SOURCE = Path(__file__).parents[2] / "export/examples/cpp/infer.cpp"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include", "/usr/local/include")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    places = [os.environ.get("HWPRUNE_ONNXRUNTIME_INCLUDE", ""), *PLACES]
    include = next((place for place in places if place and Path(place, "onnxruntime_c_api.h").is_file()), None)
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if shutil.which("g++") is None or include is None or library is None:
        pytest.skip("no g++, no onnxruntime_c_api.h (HWPRUNE_ONNXRUNTIME_INCLUDE) or no libonnxruntime.so here")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        (folder / name).symlink_to(library)
    compiler = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    linked = [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    subprocess.run([*compiler, f"-I{include}", SOURCE, "-o", folder / "infer", *linked], check=True)
    return folder / "infer"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder, model = tmp_path_factory.mktemp("bundle"), Residual().eval()
    example = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    engine = export_onnx(model, example, folder / "m.onnx").path
    target = load_target("local-onnxruntime", batch=2)
    return write_bundle(folder / "bundle", engine=engine, model=model, example=example, target=target)


def run(program: Path, bundle: Path, fed: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, bundle], input=fed, capture_output=True, check=False)


def test_it_answers_as_the_golden_file_says(program: Path, bundle: Bundle) -> None:
    golden = np.load(bundle.path / "golden.npz")
    ended = run(program, bundle.path, golden["input_0"].astype("<f4").tobytes())
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == b"output: 2 10\n"
    found = np.frombuffer(ended.stdout, "<f4").reshape(2, 10)
    assert np.abs(found - golden["output_0"]).max() <= 1e-4 * np.abs(golden["output_0"]).max()


def test_it_says_what_is_wrong(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    short, absent = run(program, bundle.path, b"123"), run(program, tmp_path, b"")
    assert (short.returncode, absent.returncode) == (1, 1)
    assert short.stderr == b"error: input takes 1536 bytes, not 3\n"
    assert b"model.onnx failed" in absent.stderr
    assert short.stdout == absent.stdout == b""
