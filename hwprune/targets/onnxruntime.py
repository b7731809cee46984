"""ONNX Runtime: the CPU provider, and two for GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from hwprune.targets._base import Runtime

# What runs inside a producer's kernel, seen in graphs dumped with `optimized_model_filepath` at ENABLE_ALL (onnxruntime
# 1.31.1, x86-64 with AVX-512, models exported by torch 2.13's dynamo exporter):
# * Batch norm right after a convolution, transposed convolution or linear layer is folded into its weights at export;
#   after an activation, or over a concatenation, it stays a kernel of its own.
# * A convolution takes one activation (nchwc.Conv or FusedConv with an `activation`): Relu, Clip (hardtanh, relu6),
#   LeakyRelu, Sigmoid, Tanh, HardSigmoid; a 2-d one HardSwish too. SiLU (QuickGelu), GELU, ELU, Softplus, PReLU, Mish
#   and a one-sided clamp (Max) stay outside; so does a second activation.
# * A 2-d convolution takes one residual Add of equal shapes (the fourth input of nchwc.Conv), and after it Relu,
#   Sigmoid, Tanh, HardSigmoid or HardSwish, but not Clip and LeakyRelu. An Add after the activation, a second one, one
#   that broadcasts, Sub and Mul stay outside; in 1-d and 3-d all do.
# * A linear layer on (N, features) takes one activation (FusedGemm), Clip not among them; with tokens it takes none.
# * ConvTranspose takes no activation.
_GEMM = frozenset({"relu", "leaky_relu", "sigmoid", "tanh", "hardsigmoid", "elu"})
_CONV = frozenset({"relu", "hardtanh", "leaky_relu", "sigmoid", "tanh", "hardsigmoid"})
_NOT_AFTER_ADD = frozenset({"hardtanh", "leaky_relu"})


def _stage(op: str) -> int:
    """Place of an operator inside a fused kernel: each place is taken once, in this order."""
    return {"batch_norm": 0, "add": 1}.get(op, 2)


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider, at its highest graph optimisation level."""

    name = "onnxruntime"
    precisions = ("fp32", "fp16", "int8")

    def fuses(self, op: str, into: str, *, rank: int = 4, chain: Sequence[str] = ()) -> bool:
        """See ``Runtime.fuses``."""
        allowed = {"batch_norm"} if into in ("conv", "conv_transpose", "linear") else set()
        if into == "conv":
            allowed |= _CONV | ({"add", "hardswish"} if rank == 4 else set())
        if into == "linear" and rank == 2:
            allowed |= _GEMM
        if "add" in chain:
            allowed -= _NOT_AFTER_ADD
        return op in allowed and all(_stage(op) > _stage(earlier) for earlier in chain)


class OnnxRuntimeCuda(Runtime):
    """ONNX Runtime's CUDA provider."""

    name = "onnxruntime-cuda"
    kernels = False


class OnnxRuntimeTensorRT(Runtime):
    """ONNX Runtime's TensorRT provider."""

    name = "onnxruntime-tensorrt"
    kernels = False
