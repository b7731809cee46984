"""ncnn on the CPU; it times whole networks only.

A model is a zip without compression: ``model.param`` and ``model.bin`` as ncnn reads them, and ``ports.json``, which
has ``inputs`` and ``outputs`` as in ``hwprune.engines.Engine``, for ncnn knows neither their names nor the batch of 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput, NotInstrumented
else:
    from device_runner import BadInput, NotInstrumented  # beside it on a device

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNELS = False
_FILES = {"model.param", "model.bin", "ports.json"}


def available(device: str = "cpu") -> str | None:
    """Why it cannot run on this device, with what to install; None if it can."""
    if importlib.util.find_spec("ncnn") is None:
        return "the package ncnn is not installed; run: pip install ncnn, and pnnx where models are converted for it"
    return None


def version() -> str:
    """Version of the runtime."""
    return str(importlib.import_module("ncnn").__version__)


class Engine:
    """A converted model (bytes or path of the zip) opened once, to run many times; see ``hwprune.engines.Engine``.

    Arithmetic and weights are in float32, on the CPU; threads do not spin when a call returns.

    Raises:
        BadInput: the model cannot be opened.
        NotInstrumented: kernels are to be timed.
    """

    cpu_time = True

    def __init__(
        self,
        model: bytes | str,
        *,
        threads: int = 1,
        precision: str = "fp32",
        device: str = "cpu",
        instrumented: bool = False,
    ) -> None:
        if instrumented:
            raise NotInstrumented("ncnn does not tell what its kernels take")
        self._ncnn = importlib.import_module("ncnn")
        self._net = self._ncnn.Net()
        options = self._net.opt
        options.num_threads, options.openmp_blocktime = threads, 0
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage", "vulkan_compute"):
            setattr(options, f"use_{name}", False)
        try:
            with zipfile.ZipFile(io.BytesIO(model) if isinstance(model, bytes) else model) as archive:
                self._load(archive)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
            raise BadInput(f"ncnn cannot open the model: {error}") from error

    def _load(self, archive: zipfile.ZipFile) -> None:
        if {one.filename for one in archive.infolist() if one.compress_type == zipfile.ZIP_STORED} != _FILES:
            raise ValueError(f"it must be a zip of {', '.join(sorted(_FILES))}, not compressed")
        ports = json.loads(archive.read("ports.json"))
        self.inputs, self.outputs = ports["inputs"], ports["outputs"]
        with tempfile.TemporaryDirectory(prefix="ncnn-") as folder:
            for name in ("param", "bin"):
                (Path(folder) / name).write_bytes(archive.read(f"model.{name}"))
            failed = self._net.load_param(str(Path(folder) / "param")) or self._net.load_model(
                str(Path(folder) / "bin")
            )
        self._in, self._out = [f"in{i}" for i in range(len(self.inputs))], [f"out{i}" for i in range(len(self.outputs))]
        named = set(self._net.input_names()) >= set(self._in) and set(self._net.output_names()) == set(self._out)
        if failed or not named:
            raise ValueError("model.param or model.bin is malformed, or has a layer that this ncnn does not know")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once: arrays by input name in, outputs in order out."""
        np = importlib.import_module("numpy")
        results = [np.array(result) for result in self._results(self._placed(feeds))]
        return [array.reshape(port["shape"]) for array, port in zip(results, self.outputs)]

    def bind(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """The call to time: inputs in ncnn's own layout, outputs left in it."""
        placed = self._placed(feeds)

        def call() -> None:
            self._results(placed)

        return call

    def _placed(self, feeds: Mapping[str, NDArray[Any]]) -> list[tuple[str, Any]]:
        contiguous, placed = importlib.import_module("numpy").ascontiguousarray, []
        for name, port in zip(self._in, self.inputs):
            array = contiguous(feeds[port["name"]])
            if list(array.shape) != port["shape"] or array.dtype != port["dtype"]:
                raise BadInput(f"input {port['name']!r} is {array.dtype} {list(array.shape)}, the model's is {port}")
            placed.append((name, self._ncnn.Mat(array[0]).clone()))
        return placed

    def _results(self, placed: list[tuple[str, Any]]) -> list[Any]:
        with self._net.create_extractor() as extractor:
            for name, value in placed:
                extractor.input(name, value)
            return [extractor.extract(name)[1] for name in self._out]

    def kernels(self) -> list[dict[str, Any]]:
        """See ``hwprune.engines.Engine.kernels``."""
        raise NotInstrumented("ncnn does not tell what its kernels take")

    def close(self) -> None:
        """Nothing is left outside the object."""
