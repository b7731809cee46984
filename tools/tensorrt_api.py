"""Write down what the TensorRT engine uses of NVIDIA's libraries, as they say it themselves; no GPU is needed.

    python tools/tensorrt_api.py --bindings FOLDER > tests/data/tensorrt_api_10.3.json
    python tools/tensorrt_api.py --cuda FOLDER > tests/data/cudart_api_12.6.json

A bindings folder is made by ``pip install --no-deps --target FOLDER tensorrt-cu12-bindings==10.3.0`` (TensorRT 11:
``tensorrt-cu13-bindings``). The bindings import with any libraries that have the C functions they look for: stand-ins
are compiled here, so a C compiler is needed. A CUDA folder is ``nvidia/cuda_runtime`` (CUDA 13: ``nvidia/cu13``) of
``pip install --no-deps --target … nvidia-cuda-runtime-cu12`` (CUDA 13: ``nvidia-cuda-runtime``), or an installed CUDA.

The tests run the engine against fakes that have these names, arguments and types and no others. Run this again when the
engine uses something new.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENGINES = Path(__file__).parent.parent / "hwprune" / "engines"
SOURCES = [ENGINES / name for name in ("tensorrt_engine.py", "tensorrt_plan.py")]
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
STAND_IN = """
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void *logger, const char *space) { return 1; }
"""
# How signatures spell one type: pybind11's words differ between the two bindings, and some are C++ names.
SPELLINGS = {
    "SupportsInt": "int",
    "SupportsFloat": "float",
    "Buffer": "buffer",
    "CapsuleType": "capsule",
    "IParserError": "ParserError",
}


def import_bindings(folder: Path) -> Any:
    """The package tensorrt_bindings in a folder, over stand-ins for the libraries that it needs.

    Raises:
        SystemExit: it is not there, or there is no compiler.
    """
    package = folder / "tensorrt_bindings"
    if not (package / "tensorrt.so").is_file():
        raise SystemExit(f"{package} has no tensorrt.so")
    needed = re.search(rb"libnvinfer\.so\.(\d+)", (package / "tensorrt.so").read_bytes())
    version = needed[1].decode() if needed else ""
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "stand_in.c"
        source.write_text(STAND_IN)
        for name in LIBRARIES:
            file = f"lib{name}.so.{version}"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", f"{work}/{file}", str(source)]
            try:
                subprocess.run(command, check=True, timeout=60)
            except OSError as error:
                raise SystemExit(f"no C compiler: {error}") from error
            ctypes.CDLL(f"{work}/{file}", mode=ctypes.RTLD_GLOBAL)
        sys.path.insert(0, str(folder))
        return importlib.import_module("tensorrt_bindings")


def used_names() -> tuple[set[str], set[str]]:
    """What the engine's files take from the package (``trt.X``), and every other name or word in them."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    taken = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "trt"}
    names = {node.attr for node in attributes} | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return taken, names | {str(node.value) for node in nodes if isinstance(node, ast.Constant)}


def spelled(words: str) -> str:
    """A type without what is around it: ``tensorrt_bindings.tensorrt.ILogger`` → ``ILogger``."""
    last = re.split(r"\.|::", re.sub(r"\[.*", "", words.strip()))[-1]
    return SPELLINGS.get(last, last)


def signatures(doc: str, name: str) -> list[str]:
    """The overloads in a pybind11 docstring: ``["(network: INetworkDefinition, flags: int = ...) -> bool"]``."""
    found = []
    for inside, returns in re.findall(rf"^(?:\d+\. )?{name}\((?!\*args)(.*)\) -> (.+)$", doc, re.MULTILINE):
        plain = re.sub(r"<[^<>]*>", "0", re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", inside)))
        parts = (part.partition(": ") for part in plain.split(", ") if part and not part.startswith("self"))
        kinds = [(argument, *kind.partition(" = ")) for argument, _, kind in parts]
        arguments = [f"{argument}: {spelled(kind)}{' = ...' if equals else ''}" for argument, kind, equals, _ in kinds]
        found.append(f"({', '.join(arguments)}) -> {spelled(returns)}")
    return found


def describe_class(kind: Any, used: set[str]) -> dict[str, Any]:
    """Methods, properties and constants of a class that are used; iteration and ``__init__`` where it has them."""
    methods: dict[str, list[str]] = {}
    properties: dict[str, str] = {}
    constants: dict[str, str] = {}
    settable = []
    for name in sorted(one for one in used | {"__init__", "__len__", "__getitem__"} if one.isidentifier()):
        member = inspect.getattr_static(kind, name, None)
        if isinstance(member, property):
            getter = re.search(r"-> (.+)", (member.fget and member.fget.__doc__) or "")
            properties[name] = spelled(getter[1]) if getter else "any"
            settable += [name] if member.fset else []
        elif hasattr(type(member), "__members__"):
            constants[name] = type(member).__name__
        elif signatures(getattr(member, "__doc__", None) or "", name):
            methods[name] = signatures(member.__doc__, name)
    parts = {"methods": methods, "properties": properties, "settable": settable, "constants": constants}
    return {key: value for key, value in parts.items() if value}


def tensorrt_api(trt: Any) -> dict[str, Any]:
    """What the engine's files use of the bindings: from what they take of the package, on to all that this returns."""
    taken, used = used_names()
    functions: dict[str, list[str]] = {}
    enums: dict[str, str] = {}
    classes: dict[str, Any] = {}
    waiting = [name for name in sorted(taken) if not name.startswith("_")]
    while waiting:
        name = waiting.pop(0)
        member: Any = getattr(trt, name, None)
        if isinstance(member, type) and hasattr(member, "__members__"):
            enums[name] = " ".join(sorted(member.__members__))
        elif isinstance(member, type) and name not in classes:
            found = classes[name] = describe_class(member, used)
            waiting += found.get("properties", {}).values()
            waiting += re.findall(r"(?:: |-> )(\w+)", str(found.get("methods")))
        elif inspect.isfunction(member):
            functions[name] = [f"({', '.join(f'{one}: any' for one in inspect.signature(member).parameters)}) -> any"]
        elif inspect.isbuiltin(member):
            functions[name] = signatures(member.__doc__ or "", name)
    parts: dict[str, dict[str, Any]] = {"functions": dict(functions), "enums": dict(enums), "classes": classes}
    return {"tensorrt": trt.__version__, **{key: dict(sorted(value.items())) for key, value in parts.items()}}


def cuda_api(folder: Path) -> dict[str, Any]:
    """Parameter types and constants that ``cudart.py`` declares, from CUDA's headers."""
    sys.path.insert(0, str(ENGINES.parent.parent))
    cudart = importlib.import_module("hwprune.engines.cudart")
    header, types = ((folder / "include" / name).read_text() for name in ("cuda_runtime_api.h", "driver_types.h"))
    header = re.sub(r" __dv\(\d\)", "", header)  # default arguments
    functions: dict[str, list[str]] = {}
    constants: dict[str, int | None] = {}
    for name in sorted([*cudart.PROTOTYPES, "cudaGetErrorString"]):
        declared = re.search(rf"CUDARTAPI {name}\(([^)]*)\);", header)
        parameters = declared[1].split(",") if declared else []
        functions[name] = [re.sub(r"\b(enum|const) |\s*\w+$", "", one.strip()) for one in parameters]
    for name in sorted(cudart.CONSTANTS):
        value = re.search(rf"\b{name}\s*=?\s*(0x[0-9a-fA-F]+|\d+)", types)
        constants[name] = int(value[1], 0) if value else None
    version = re.search(r"#define CUDART_VERSION\s+(\d+)", header)
    number = int(version[1]) if version else 0
    return {"cuda": f"{number // 1000}.{number % 1000 // 10}", "functions": functions, "constants": constants}


def main() -> None:
    """Print the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bindings", type=Path, help="folder with the package tensorrt_bindings")
    source.add_argument("--cuda", type=Path, help="folder with include/cuda_runtime_api.h")
    options = parser.parse_args()
    api = tensorrt_api(import_bindings(options.bindings)) if options.bindings else cuda_api(options.cuda)
    print(json.dumps(api, indent=1))


if __name__ == "__main__":
    main()
