"""Remove nodes and weights that no output depends on: what the exporter and the other passes left over."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def remove_unused(model: ir.Model) -> ir.Model:
    """Drop dead nodes and unused initializers; inputs and outputs of the graph stay."""
    RemoveUnusedNodesPass()(model)
    return model
