"""Zeros in an exported graph: what removed blocks leave behind is taken out, and no zero has a sign."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase, RewriteRuleSet, rewrite
from onnxscript.rewriter.rules.common import successive_relu_rule


def without_zeros(graph: ir.Model, stored: Container[str]) -> None:
    """Let what constant zeros are added to pass, and of two ReLUs in a row leave one, in place.

    Args:
        graph: an exported network.
        stored: names of parameters and buffers: zeros that a network was trained to stay.
    """
    added: RewriteRule = _AddOfZeros.rule(stored)  # type: ignore[no-untyped-call]
    rewrite(graph, RewriteRuleSet([added], commute=True))
    IdentityEliminationPass()(graph)
    rewrite(graph, [successive_relu_rule])


def without_signed_zeros(graph: onnx.GraphProto) -> None:
    """Make negative zeros of the weights positive, in place.

    The exporter folds batch norms into layers, and a negative scale turns a pruned weight into -0.0, which encodings
    of sparse weights would have to store.
    """
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and (np.signbit(values) & (values == 0)).any():
            tensor.CopyFrom(onnx.numpy_helper.from_array(values + values.dtype.type(0), tensor.name))


class _AddOfZeros(RewriteRuleClassBase):
    def __init__(self, stored: Container[str]) -> None:
        super().__init__()
        self._stored = stored

    def pattern(self, op: Any, kept: ir.Value, zeros: ir.Value) -> Any:
        return op.Add(kept, zeros, _outputs=["total"])

    def check(self, context: Any, kept: ir.Value, zeros: ir.Value, total: ir.Value) -> MatchResult:
        result, constant = MatchResult(), zeros.const_value
        same = kept.shape is not None and kept.shape == total.shape
        if not same or constant is None or zeros.name in self._stored or constant.numpy().any():
            return result.fail("it is not an addition of zeros that removing a block left")
        return result

    def rewrite(self, op: Any, kept: ir.Value, **others: ir.Value) -> Any:
        return op.Identity(kept)
