"""What torch's ONNX exporter says on every call and no user can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exporter_noise_silenced() -> Iterator[None]:
    """Hold back what torch 2.13's exporter says on every call and no user can act on."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            # torch.export copies its own deprecated LeafSpec
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            # onnx computes constants, of which an infinite one is none of a user's business
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"onnx\.reference\.")
            yield
    finally:
        logger.removeFilter(keep)
