"""The files of ours that a device needs to run engines: each stands alone, beside the others."""

from __future__ import annotations

from importlib import resources

from hwprune.device_runner import ENGINES, ONNX

_MORE = {"tensorrt": ("cudart", "tensorrt_plan"), "torch": ("torch_archive",)}  # engine files that stand on others
_BUNDLE = ("device_verbs", "device_input", "device_image")  # beside run.py


def device_files(runtime: str, *, worker: bool = False, packed: bool = False) -> dict[str, bytes]:
    """Names and contents of the files that a device needs beside a model.

    Args:
        runtime: the runtime on that device.
        worker: those that measure what a connection asks for (``worker.py``), which may time kernels; else those of a
            bundle (``run.py``).
        packed: also the one that unpacks packed engines.
    """
    name = ENGINES[runtime][0]
    engine = (f"{name}_engine", *_MORE.get(name, ()), *(("onnx_graph",) if worker or name in ONNX else ()))
    files = {"device_runner.py": "device_runner.py", "device_facts.py": "device_facts.py"}
    files |= {f"{module}.py": f"engines/{module}.py" for module in engine}
    files |= {f"{module}.py": f"{module}.py" for module in (() if worker else _BUNDLE)}
    files |= {"worker.py": "device_worker.py"} if worker else {"run.py": "device_bundle.py"}
    if packed:
        files["device_storage.py"] = "device_storage.py"
    package = resources.files("hwprune")
    return {name: package.joinpath(source).read_bytes() for name, source in files.items()}
