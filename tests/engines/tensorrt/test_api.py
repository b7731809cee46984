"""What the engine uses, against what NVIDIA's libraries declare: the files in ``tests/data``, and the libraries.

``HWPRUNE_TENSORRT_BINDINGS`` and ``HWPRUNE_CUDA`` name folders with the real ones, separated by ``:``; see
``tools/tensorrt_api.py`` for how to make them.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwprune import device_runner
from hwprune.engines import cudart, tensorrt_engine, tensorrt_plan
from hwprune.targets import load_target, runtime_for

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
TOOL = ROOT / "tools" / "tensorrt_api.py"
MODULES = [cudart, tensorrt_plan, tensorrt_engine]


def folders(variable: str, version: str) -> list[Path]:
    """Folders of one version; a folder's own files tell which it is."""
    named = [Path(name) for name in os.environ.get(variable, "").split(os.pathsep) if name]
    texts = {"HWPRUNE_TENSORRT_BINDINGS": "tensorrt_bindings/__init__.py", "HWPRUNE_CUDA": "include/cuda_runtime_api.h"}
    major, minor = version.split(".")
    words = {"HWPRUNE_TENSORRT_BINDINGS": f'__version__ = "{version}.', "HWPRUNE_CUDA": f"{major}0{int(minor)}0"}
    return [folder for folder in named if words[variable] in (folder / texts[variable]).read_text()]


def printed(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_the_file_says_what_the_bindings_say(version: str) -> None:
    found = folders("HWPRUNE_TENSORRT_BINDINGS", version)
    if not found or shutil.which("cc") is None:
        pytest.skip(f"no bindings of TensorRT {version} named in HWPRUNE_TENSORRT_BINDINGS, or no C compiler")
    assert printed("--bindings", str(found[0])) == json.loads((DATA / f"tensorrt_api_{version}.json").read_text())


@pytest.mark.parametrize("kit", ["jetson-orin", "data-centre-gpu"])
def test_the_kits_are_for_this_engine(kit: str) -> None:
    target = load_target(ROOT / "export" / "devices" / kit / "target.toml")
    assert (target.name, target.runtime) == (kit, "tensorrt")
    assert target.precision in runtime_for(target).precisions


LIVE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import tensorrt_api
trt = tensorrt_api.import_bindings(Path(sys.argv[3]))
from hwprune.engines import tensorrt_engine, tensorrt_plan
log, profile = tensorrt_plan._make_log(trt), tensorrt_engine._make_profile(trt)
log.log(trt.ILogger.WARNING, "no")
log.log(trt.ILogger.ERROR, "yes")
profile.runs.append([])
profile.report_layer_time("layer", 0.5)
print(log.errors, profile.runs, trt.init_libnvinfer_plugins(log, ""), [int(n) for n in trt.Dims([1, 3])])
"""


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_what_the_bindings_can_do_without_a_gpu(version: str) -> None:
    found = folders("HWPRUNE_TENSORRT_BINDINGS", version)
    if not found or shutil.which("cc") is None:
        pytest.skip(f"no bindings of TensorRT {version} named in HWPRUNE_TENSORRT_BINDINGS, or no C compiler")
    command = [sys.executable, "-c", LIVE, str(TOOL.parent), str(ROOT), str(found[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "['yes'] [[('layer', 0.5)]] True [1, 3]\n", done.stderr


@pytest.mark.parametrize("version", ["12.6", "13.5"])
def test_the_file_says_what_cudas_headers_say(version: str) -> None:
    found = folders("HWPRUNE_CUDA", version)
    if not found:
        pytest.skip(f"no CUDA {version} named in HWPRUNE_CUDA")
    assert printed("--cuda", str(found[0])) == json.loads((DATA / f"cudart_api_{version}.json").read_text())


@pytest.mark.parametrize("version", ["12.6", "13.5"])
def test_a_real_libcudart_has_the_functions(version: str) -> None:
    libraries = [path for folder in folders("HWPRUNE_CUDA", version) for path in folder.glob("lib*/libcudart.so.*")]
    if not libraries:
        pytest.skip(f"no libcudart of CUDA {version} in the folders that HWPRUNE_CUDA names")
    cuda = cudart.Cuda(ctypes.CDLL(str(libraries[0])))
    with pytest.raises(RuntimeError, match=r"cudaEventDestroy: \w+ \w+"):  # no such event, or no driver
        cuda("cudaEventDestroy", None)


@pytest.mark.parametrize("version", ["12.6", "13.5"])
def test_cuda_is_declared_as_its_headers_do(version: str, c_type: Any) -> None:
    api = json.loads((DATA / f"cudart_api_{version}.json").read_text())
    declared = {**cudart.PROTOTYPES, "cudaGetErrorString": (ctypes.c_int,)}
    assert {name: tuple(map(c_type, types)) for name, types in api["functions"].items()} == declared
    assert api["constants"] == cudart.CONSTANTS


def test_what_tensorrt_calls_back_takes_what_it_gives(fake: Any) -> None:
    trt = fake.package.module
    for made, name in (
        (tensorrt_plan._make_log(trt), "log"),
        (tensorrt_engine._make_profile(trt), "report_layer_time"),
    ):
        base = type(made).__mro__[1].__name__
        version = ".".join(trt.__version__.split(".")[:2])
        api = json.loads((DATA / f"tensorrt_api_{version}.json").read_text())
        (declared,) = api["classes"][base]["methods"][name]
        taken = list(inspect.signature(getattr(made, name)).parameters)
        assert [part.split(":")[0] for part in declared[1:].split(") ->")[0].split(", ")] == taken


def test_the_fakes_are_strict(fake: Any) -> None:
    trt = fake.package.module
    log = tensorrt_plan._make_log(trt)
    builder = trt.Builder(log)
    config, network = builder.create_builder_config(), builder.create_network()
    for wrong in (
        lambda: trt.BuilderFlag.FP_16,
        lambda: trt.Bilder,
        lambda: builder.build_engine,
        lambda: network.get_layers,
        lambda: setattr(config, "max_workspace_size", 1),
        lambda: setattr(config, "get_timing_cache", 1),
        lambda: setattr(network, "num_layers", 1),
    ):
        with pytest.raises(AttributeError):
            wrong()
    for wrong in (
        lambda: trt.Builder(),
        lambda: trt.Builder("log"),
        lambda: trt.IBuilderConfig(),
        lambda: builder.create_network(True),
        lambda: builder.create_network(0, 0),
        lambda: builder.build_serialized_network(config, network),
        lambda: config.set_flag(1),
        lambda: config.set_timing_cache(config.create_timing_cache(b""), mismatch=False),
        lambda: config.set_timing_cache(config.create_timing_cache(b"")),
        lambda: setattr(config, "builder_optimization_level", "3"),
        lambda: setattr(config, "profiling_verbosity", trt.BuilderFlag.DEBUG),
    ):
        with pytest.raises(TypeError):
            wrong()
    careless = type("Log", (trt.ILogger,), {"__init__": lambda self: None})
    with pytest.raises(TypeError):
        trt.Builder(careless())


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_each_file_stands_alone(module: Any) -> None:
    """Python 3.8, nothing of hwprune but through ``run``, numpy and TensorRT not at import."""
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= set(sys.stdlib_module_names) | {"importlib.util"}


def test_the_files_work_beside_the_runner(tmp_path: Path) -> None:
    for module in (device_runner, *MODULES):
        shutil.copy(str(module.__file__), tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import device_runner\n"
        "print(device_runner.engine_module('tensorrt').available()); print('hwprune' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the package tensorrt is not installed; run: pip install")
    assert done.stdout.endswith("\nFalse\n")
