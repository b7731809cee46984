"""8-bit models: QuantizeLinear and DequantizeLinear around what a runtime has integer kernels for."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from hwprune import device_runner
from hwprune.errors import ModelError, first_line

Feeds = Mapping[str, NDArray[Any]]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        following = next(self._left, None)
        return None if following is None else dict(following)


class Quantizer:
    """ONNX Runtime's static quantizer on one model, calibrated once and used for any choice of its nodes.

    Weights become int8 with a scale per channel. Ranges of activations are the least and greatest values seen.
    Activation functions that only cut a range off (``Relu``, ``Clip``) become part of it. Outputs of the model stay in
    floating point.

    Args:
        model: with fixed shapes; names of nodes are kept, those of new nodes begin with a value's.
        feeds: arrays by input name to see ranges on.
        symmetric: activations are int8 around zero and biases stay as they are, as TensorRT takes them; otherwise
            uint8 with a zero point, biases int32.

    Raises:
        ModelError: the model cannot be run on the feeds.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Iterable[Feeds], *, symmetric: bool = False) -> None:
        self._model, self._symmetric = model, symmetric
        self._types = sorted({*QLinearOpsRegistry, *QDQRegistry})
        with tempfile.TemporaryDirectory(prefix="calibrated-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            try:
                calibrator = create_calibrator(
                    path, self._types, augmented_model_path=str(Path(folder) / "augmented.onnx")
                )
                calibrator.collect_data(_Reader(feeds))
                self._ranges = calibrator.compute_data()
            except Exception as error:  # ONNX Runtime has a class per cause, and plain ValueError
                raise _refused(error) from error

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that it can quantise."""
        return tuple(node.name for node in self._model.graph.node if node.op_type in self._types)

    def quantised(self, *, kept: Collection[str] = (), alone: str | None = None) -> onnx.ModelProto:
        """The model in 8 bits.

        Args:
            kept: names of nodes that stay in floating point; what they share with others may still be rounded.
            alone: quantise this node and no other.

        Raises:
            ModelError: the model cannot be quantised.
        """
        prepared = onnx.ModelProto()
        prepared.CopyFrom(self._model)
        del prepared.metadata_props[:]
        signed = QuantType.QInt8
        options = {"ActivationSymmetric": self._symmetric, "QuantizeBias": not self._symmetric}
        try:
            with _remarks_silenced():
                quantizer = QDQQuantizer(
                    prepared,
                    per_channel=True,
                    reduce_range=False,
                    weight_qType=signed,
                    activation_qType=signed if self._symmetric else QuantType.QUInt8,
                    tensors_range=self._ranges,
                    nodes_to_quantize=[] if alone is None else [alone],
                    nodes_to_exclude=sorted(kept),
                    op_types_to_quantize=self._types,
                    extra_options=options,
                )
                quantizer.quantize_model()
                quantizer.model.topological_sort()
        except Exception as error:
            raise _refused(error) from error
        made: onnx.ModelProto = quantizer.model.model
        del made.metadata_props[:]
        return made


def quantised(model: onnx.ModelProto, feeds: Iterable[Feeds]) -> onnx.ModelProto:
    """A model in 8 bits, all of it: see :class:`Quantizer`.

    Raises:
        ModelError: it cannot be quantised.
    """
    return Quantizer(model, feeds).quantised()


def made_up_feeds(model: onnx.ModelProto, *, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """One set of inputs for a model of which only latency matters: normal values, zeros for whole numbers."""
    return [device_runner.example_feeds(device_runner.open_engine(model.SerializeToString()), seed)]


@contextmanager
def _remarks_silenced() -> Iterator[None]:
    """Without the quantizer's remarks on nodes for which it has no scale per channel."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _refused(error: Exception) -> ModelError:
    return ModelError(
        f"the model cannot be quantised: {type(error).__name__}: {first_line(error)}",
        hint="use a target of precision fp32",
    )
