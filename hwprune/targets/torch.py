"""PyTorch without a compiler: every operator of an exported program runs by itself."""

from __future__ import annotations

from hwprune.targets._base import Runtime


class Torch(Runtime):
    """PyTorch on the CPU."""

    name = "torch"
    model_format = "torch"


class TorchCuda(Torch):
    """PyTorch on a GPU, replayed as a CUDA graph."""

    name = "torch-cuda"
