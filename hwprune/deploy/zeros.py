"""What removed blocks leave behind, taken out of an exported graph: additions of zeros, and a second ReLU in a row."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

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
