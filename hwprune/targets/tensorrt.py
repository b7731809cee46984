"""TensorRT on an NVIDIA GPU."""

from __future__ import annotations

from hwprune.targets._base import Runtime


class TensorRT(Runtime):
    """TensorRT 10.3 (JetPack 6) to 11; it builds its plan from the ONNX model on the GPU that is to run it.

    A model is of the precision that it says: fp16 is an ONNX model in float16 (up to TensorRT 10 also one in float32,
    of which the builder then makes float16 kernels), int8 one with QuantizeLinear and DequantizeLinear nodes.
    """

    name = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    signed_activations = True
    builder_halves = True
