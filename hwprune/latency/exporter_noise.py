"""What torch's ONNX exporter says and no user can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_SAID = {
    "torch.onnx._internal.exporter._registration": "torchvision is not installed",
    "onnxscript.optimizer._constant_folding": "Evaluation failed",  # the constant is computed in every call then
}


@contextmanager
def exporter_noise_silenced() -> Iterator[None]:
    """Hold back what torch 2.13's exporter says and no user can act on."""
    with ExitStack() as stack, warnings.catch_warnings():
        for name, words in _SAID.items():
            stack.enter_context(_without(logging.getLogger(name), words))
        # torch.export copies its own deprecated LeafSpec
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        # onnx computes constants, of which an infinite one is none of a user's business
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"onnx\.reference\.")
        yield


@contextmanager
def _without(logger: logging.Logger, words: str) -> Iterator[None]:
    def keep(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
