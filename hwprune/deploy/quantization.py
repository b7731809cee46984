"""8-bit models: QuantizeLinear and DequantizeLinear around what a runtime has integer kernels for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hwprune import device_runner
from hwprune.errors import ModelError, first_line


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self._left: Iterator[Mapping[str, NDArray[Any]]] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        following = next(self._left, None)
        return None if following is None else dict(following)


def quantised(model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> onnx.ModelProto:
    """A model in 8 bits by ONNX Runtime's static quantizer: activations uint8, weights int8 with a scale per channel.

    Ranges of activations are the least and greatest values seen. Activation functions that only cut a range off
    (``Relu``, ``Clip``) become part of it. Outputs of the model stay in floating point.

    Args:
        model: with fixed shapes; names of nodes are kept, those of new nodes begin with a value's.
        feeds: arrays by input name to see ranges on.

    Raises:
        ModelError: the model cannot be run on them.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    del prepared.metadata_props[:]
    # What the quantizer's own preparation would do, the exporter has done: folding constants, inferring shapes.
    onnx.helper.set_model_props(prepared, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory(prefix="quantised-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            quantize_static(
                prepared,
                path,
                _Feeds(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # ONNX Runtime has a class per cause, and plain ValueError
            raise ModelError(
                f"the model cannot be quantised: {type(error).__name__}: {first_line(error)}",
                hint="use a target of precision fp32",
            ) from error
        made = onnx.load(path)
    del made.metadata_props[:]
    return made


def made_up_feeds(model: onnx.ModelProto, *, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """One set of inputs for a model of which only latency matters: normal values, zeros for whole numbers."""
    return [device_runner.example_feeds(device_runner.open_engine(model.SerializeToString()), seed)]
